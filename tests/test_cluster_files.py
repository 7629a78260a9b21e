"""The files under configs/cluster: shell that runs, commands that `vsd` accepts, directives that fit them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "cluster"
BATCH = sorted(FOLDER.glob("*.sbatch"))
STAGES = ["nerf", "geometry", "texture"]
DIRECTIVES = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time", "signal"}
DIRECTIVES |= {"requeue", "open-mode", "output"}  # sbatch's own names
# Each drops its own options, says what it was given, and runs the rest.
LAUNCHER = """#!/bin/bash
options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
echo "${options[@]}" >> launched
exec "$@"
"""
VSD = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
open("commands", "a").write(json.dumps(sys.argv[1:]) + "\\n")
folder = Path(sys.argv[sys.argv.index("--trainer.default_root_dir") + 1])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
open("environment", "w").write(json.dumps(dict(os.environ)))
sys.exit(3 if os.environ.get("FAILS") == folder.name else 0)
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of the configurations, and programs that stand for those of a cluster."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, text in (("srun", LAUNCHER), ("torchrun", LAUNCHER), ("vsd", VSD)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vsd"])
    return tmp_path


def directives(file: Path) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", file.read_text(), re.MULTILINE)
    assert len(found) == file.read_text().count("#SBATCH"), "every directive is one that sbatch reads"
    return dict(found)


def shell(folder: Path, file: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a file as SLURM does, with the variables that follow from its directives."""
    given = directives(file) if file.suffix == ".sbatch" else {}
    slurm = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "2"}
    names = {"NNODES": "nodes", "NTASKS_PER_NODE": "ntasks-per-node", "CPUS_PER_TASK": "cpus-per-task"}
    slurm |= {f"SLURM_{name}": given[option] for name, option in names.items() if option in given}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMP"))}
    own = kept | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"} | (slurm if given else {}) | environment
    return subprocess.run(["bash", str(file), *arguments], env=own, cwd=folder, capture_output=True, text=True)


def commands(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "commands").read_text().splitlines()]


def parsed(command: list[str], capsys) -> dict:
    """What `vsd` would run."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--print_config"])
    printed = capsys.readouterr()
    assert ended.value.code in (0, None), printed.err
    return yaml.safe_load(printed.out)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.s*")), ids=lambda file: file.name)
def test_the_shell_reads_every_file(file):
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("file", BATCH, ids=lambda file: file.name)
def test_directives_are_those_of_sbatch_and_fit_what_a_run_needs(file):
    given = directives(file)
    assert given.keys() == DIRECTIVES
    assert given["gpus-per-node"] == given["ntasks-per-node"], "a task per GPU, each of which sees all of its node"
    assert re.fullmatch(r"SIGUSR1@\d+", given["signal"]), "to the tasks, which Lightning answers, not to the script"


@pytest.mark.parametrize("file", BATCH, ids=lambda file: file.name)
def test_a_job_runs_three_stages_that_the_command_accepts(elsewhere, capsys, file):
    (elsewhere / "prompts.txt").write_text("a red car\na pineapple\n")
    array = file.stem == "prompts"
    ended = shell(elsewhere, file, "prompts.txt" if array else "a pineapple", "--model.seed", "3")
    assert ended.returncode == 0 and ended.stderr == ""
    given, run = directives(file), elsewhere / "runs" / ("job-70/2" if array else "job-77")
    nodes, devices = int(given["nodes"]), int(given["ntasks-per-node"])
    for command, stage in zip(commands(elsewhere), STAGES, strict=True):
        config = parsed(command, capsys)
        assert config["prompt"] == "a pineapple" and config["model"]["init_args"]["seed"] == 3
        assert (config["trainer"]["num_nodes"], int(config["trainer"]["devices"])) == (nodes, devices)
        assert config["model"]["init_args"]["particles"] == nodes * devices
        assert config["trainer"]["default_root_dir"] == str(run / stage)
        assert config["trainer"]["strategy"]["class_path"] == "lightning_modules.parallel.ParticleParallelStrategy"
        assert config["trainer"]["logger"][0]["class_path"].endswith("WandbLogger")
        for before in STAGES[: STAGES.index(stage)]:
            assert config["model"]["init_args"][before] == str(run / before)
    launched = (elsewhere / "launched").read_text().splitlines()
    assert launched == [f"--kill-on-bad-exit=1 --cpus-per-task={given['cpus-per-task']}"] * 3
    environment = json.loads((elsewhere / "environment").read_text())
    assert environment["WANDB_MODE"] == "offline" and environment["OMP_NUM_THREADS"] == given["cpus-per-task"]


def test_a_stage_that_fails_ends_the_job_and_a_finished_one_is_not_run_again(elsewhere):
    file = FOLDER / "one-node.sbatch"
    assert shell(elsewhere, file, "a car", FAILS="geometry").returncode == 3
    assert len(commands(elsewhere)) == 2 and (elsewhere / "runs/job-77/nerf/finished").exists()
    assert not (elsewhere / "runs/job-77/geometry/finished").exists()
    assert shell(elsewhere, file, "a car").returncode == 0
    names = [Path(command[command.index("--trainer.default_root_dir") + 1]).name for command in commands(elsewhere)]
    assert names == ["nerf", "geometry", "geometry", "texture"]


def test_torchrun_starts_the_same_stages_and_resumes_them(elsewhere, capsys):
    file = FOLDER / "torchrun.sh"
    given = {"nodes": "2", "devices": "8", "master": "one", "preset": "toybox/"}
    assert shell(elsewhere, file, "a car", "run", "--seed_everything=4", FAILS="texture", **given).returncode == 3
    assert shell(elsewhere, file, "a car", "run", resume="1", particles="5", **given).returncode == 0
    *first, last = commands(elsewhere)
    for command, stage in zip(first, STAGES, strict=True):
        config = parsed(command, capsys)
        assert config["trainer"]["default_root_dir"] == f"run/{stage}" and config["seed_everything"] == 4
        assert config["model"]["init_args"]["particles"] == 16 and config["ckpt_path"] is None
    config = parsed(last, capsys)
    assert config["ckpt_path"] == "last" and config["model"]["init_args"]["particles"] == 5
    expected = (
        "--nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=one:29500 --max-restarts=3 --no-python"
    )
    assert (elsewhere / "launched").read_text().splitlines() == [expected] * 4


def test_torchrun_has_the_options_that_its_file_gives_it():
    from torch.distributed.run import get_args_parser

    words = re.search(r"launch=\((torchrun .*?)\)", (FOLDER / "torchrun.sh").read_text(), re.DOTALL)[1]
    options = words.replace('"$nodes"', "2").replace('"$devices"', "8").split()[1:]
    args = get_args_parser().parse_args([*options, "vsd", "fit", "--config", "x"])
    assert (args.nnodes, args.nproc_per_node, args.no_python, args.max_restarts) == ("2", "8", True, 3)
    assert args.training_script == "vsd" and args.training_script_args == ["fit", "--config", "x"]


@pytest.mark.parametrize("file", [*BATCH, FOLDER / "torchrun.sh"], ids=lambda file: file.name)
def test_a_missing_argument_is_one_line(elsewhere, file):
    ended = shell(elsewhere, file)
    assert ended.returncode != 0 and ended.stderr.count("\n") == 1 and "is missing" in ended.stderr
    assert not (elsewhere / "commands").exists()
