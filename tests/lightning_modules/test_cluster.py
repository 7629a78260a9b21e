"""Runs as a cluster starts them, on processes of this machine: a fake SLURM of two nodes, and torchrun."""

import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from fake_slurm import Job, free_port, plain_environment
from small_runs import NERF, TINY, UNSEEN, at

from common.errors import InputError
from lightning_modules.cli import main
from lightning_modules.parallel import ParticleParallelStrategy
from lightning_modules.run.folder import CONFIG, LAST, requeued
from lightning_modules.run.ranks import lost, require_all_ranks

STRATEGY = """
trainer:
  strategy:
    class_path: lightning_modules.parallel.ParticleParallelStrategy
    init_args: {process_group_backend: gloo, timeout: "0:05:00"}
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Three particles on two nodes of two tasks, of which the last one is killed in the third step: folder, codes,
    and what the tasks said."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "strategy.yaml").write_text(STRATEGY)
    arguments = ["fit", "--config", NERF, "--config", "strategy.yaml", *TINY, UNSEEN, "--trainer.limit_val_batches=0"]
    arguments += ["--trainer.devices=2", "--trainer.num_nodes=2", "--trainer.max_steps=6", "--model.particles=3"]
    arguments += ["--checkpoint.every=1", "--trainer.default_root_dir=run", "--trainer.callbacks.score.warm_start=1"]
    arguments += [*at(2, signal.SIGKILL), "--trainer.callbacks.rank=3"]
    codes, _, said = Job(folder, arguments, nodes=2, per_node=2, SIGNALS="yes").wait()
    return folder / "run", codes, said


def test_a_rank_that_dies_ends_all_tasks_each_with_a_line_and_a_checkpoint_of_all_particles(failed):
    folder, codes, said = failed
    assert codes == [1, 1, 1, -signal.SIGKILL], said
    for rank, text in enumerate(said[:3]):
        assert "Traceback" not in text
        (line,) = [line for line in text.splitlines() if line.startswith("vsd: ")]
        assert line.startswith(f"vsd: rank {rank}: another rank has ended or does not answer (")
        assert line.endswith(f"; resume: vsd fit --config run/{CONFIG} --ckpt_path last")
    saved = torch.load(folder / LAST, weights_only=True)
    counts = [int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()]
    assert saved["global_step"] == 2 and set(counts) == {2}, "of the step before"
    assert {name.split(".")[1] for name in saved["state_dict"]} == {"0", "1", "2"}


def test_options_of_the_strategy_are_in_the_record_and_those_of_ddp_are_refused(failed, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vsd"])
    record = yaml.safe_load((failed[0] / CONFIG).read_text())["trainer"]["strategy"]
    assert record["class_path"].endswith(ParticleParallelStrategy.__name__)
    assert record["init_args"] == {"process_group_backend": "gloo", "timeout": "0:05:00"}
    for options, named in (
        ("{find_unused_parameters: true}", "find_unused_parameters"),
        ("{timeout: '0:00'}", "timeout"),
    ):
        strategy = f"{{class_path: {record['class_path']}, init_args: {options}}}"
        with pytest.raises(SystemExit) as ended:
            main(["fit", "--config", NERF, *TINY, f"--trainer.strategy={strategy}", "--trainer.devices=2"])
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2 and line.startswith("vsd: ") and named in line


@pytest.fixture(scope="module")
def resumed(failed, tmp_path_factory):
    """The same run, which two processes of torchrun have finished: its folder and what each of them held."""
    folder = shutil.copytree(failed[0], tmp_path_factory.mktemp("torchrun") / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command += ["-m", "lightning_modules.cli", "fit", "--config", f"{folder}/{CONFIG}", "--ckpt_path", "last"]
    command += ["--trainer.devices=2", "--trainer.num_nodes=1", "--trainer.callbacks+=small_runs.Held"]
    command += [f"--trainer.callbacks.folder={folder}"]
    ended = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    return folder, [torch.load(folder / f"held-rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_three_particles_on_two_ranks_two_apart_and_one_together(resumed):
    _, (first, second) = resumed
    moved = [tuple(tuple(step["gradients"]) for step in steps) for steps in zip(first, second, strict=True)]
    assert set(moved) == {((0,), (1,)), ((2,), (2,))}
    for one, two in zip(first, second, strict=True):
        if 2 in one["gradients"]:
            mean = one["gradients"][2]
            assert mean.any() and torch.equal(mean, two["gradients"][2])


def test_a_rank_holds_the_optimizers_states_of_its_own_particles_alone(resumed):
    folder, ranks = resumed
    for rank, steps in enumerate(ranks):
        assert all(step["states"].keys() == {rank, 2} for step in steps), "from the first step after the resume on"
    saved = torch.load(folder / LAST, weights_only=True)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert saved["global_step"] == 6
    assert sorted(saved["optimizer_states"][0]["state"]) == [i for group in groups for i in group["params"]], "of all"


def test_the_error_of_a_broken_connection_is_told_from_others():
    gloo = "[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]:36782. This is typically caused."
    assert "(Connection closed by peer [10.0.0.1]:36782); " in lost(RuntimeError(gloo))
    assert "(NCCL error)" in lost(torch.distributed.DistBackendError("NCCL error"))
    assert lost(RuntimeError("shapes do not fit")) is None and lost(ValueError("gloo")) is None


def test_devices_for_which_slurm_has_started_no_task_are_named():
    trainer = SimpleNamespace(num_devices=4, num_nodes=2, world_size=8)
    require_all_ranks(trainer)
    trainer.world_size = 1
    with pytest.raises(InputError, match=r"trainer.devices: 8 on 2 node\(s\), but SLURM has started 1 task.*srun"):
        require_all_ranks(trainer)


@pytest.mark.parametrize("name", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_job_that_was_started_again_is_known(monkeypatch, name):
    for other in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.setenv(other, "0")
    assert not requeued()
    monkeypatch.setenv(name, "1")
    assert requeued()
