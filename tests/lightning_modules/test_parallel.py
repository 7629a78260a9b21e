"""Two ranks on a CPU: whose particle is whose, what they share, and what a checkpoint of theirs holds."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch
from small_runs import NERF, PATHS, TINY, UNSEEN, at, resume, running_in

from lightning_modules.cli import Command, main, run
from lightning_modules.parallel import ParticleParallelStrategy
from lightning_modules.run.folder import LAST
from lightning_modules.run.stopping import Requeue
from vsd.guidance import VSDGuidance

STEPS = 3
IMAGE = str(Path(NERF).with_name("image.yaml"))


def fit_on(ranks: int, folder: Path, *more: str, config: str = NERF) -> list[dict]:
    """What every rank of a small run had after its last step, before the particles were broadcast."""
    folder.mkdir()
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", "--config", config, *more]
    if config == NERF:
        command[6:6] = [*TINY, UNSEEN, "--trainer.callbacks.score.warm_start=1", "--trainer.limit_val_batches=0"]
    command += [f"--trainer.devices={ranks}", f"--trainer.max_steps={STEPS}", f"--trainer.default_root_dir={folder}"]
    command += ["--trainer.callbacks+=small_runs.Dump", f"--trainer.callbacks.step={STEPS - 1}"]
    command += [f"--trainer.callbacks.folder={folder}"]
    # One thread each: sums of several threads round differently.
    process = subprocess.run(command, env=own_environment(), capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]


def of_particle(state: dict, index: int) -> dict:
    prefix = f"particles.{index}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Two particles on two ranks, by SDS, with pictures: the folder and what the ranks had."""
    folder = tmp_path_factory.mktemp("apart") / "run"
    pictures = (
        "--trainer.limit_val_batches=1",
        f"--trainer.val_check_interval={STEPS}",
        "--trainer.limit_test_batches=2",
    )
    record = "--trainer.callbacks+=small_runs.Rendered", f"--trainer.callbacks.folder={folder}"
    return folder, fit_on(2, folder, "--model.particles=2", "--trainer.callbacks.kind=sds", *record, *pictures)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """One particle on two ranks, by VSD."""
    return fit_on(2, tmp_path_factory.mktemp("together") / "run", "--trainer.callbacks.kind=vsd")


def test_a_rank_moves_its_own_particle_as_if_it_were_alone(apart, tmp_path):
    _, (first, second) = apart
    (alone,) = fit_on(1, tmp_path / "alone", "--trainer.callbacks.kind=sds")
    assert same(of_particle(first["after"], 0), of_particle(alone["after"], 0))
    for rank, (rank_state, other) in enumerate([(first, 1), (second, 0)]):
        assert same(of_particle(rank_state["before"], other), of_particle(rank_state["after"], other)), "not its own"
        assert not same(of_particle(rank_state["before"], rank), of_particle(rank_state["after"], rank))


def test_a_checkpoint_holds_all_particles_and_their_optimizers(apart):
    folder, ranks = apart
    saved = torch.load(folder / LAST, weights_only=True)
    for rank, rank_state in enumerate(ranks):
        assert same(of_particle(saved["state_dict"], rank), of_particle(rank_state["after"], rank))
    counts = [int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()]
    assert len(counts) == sum(len(rank_state["shared"]) for rank_state in ranks) and set(counts) == {STEPS}


def test_each_rank_renders_and_writes_the_pictures_of_its_own_particle(apart, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["vsd"])
    folder, _ = apart
    for rank in range(2):
        assert set((folder / f"rendered-rank{rank}").read_text().split()) == {str(rank)}
    options = "--ckpt_path", str(folder / LAST), f"--trainer.default_root_dir={tmp_path}", "--trainer.devices=1"
    run(["validate", "--config", str(folder / "config.yaml"), *options])
    for i in range(2):
        name = f"validation/particle{i}-step{STEPS:06d}.png"
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), "as one rank renders it"
        assert (folder / f"turntable-particle{i}.mp4").is_file() and (folder / f"contact-particle{i}.png").is_file()


def test_one_rank_resumes_with_what_two_have_made(apart, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vsd"])
    folder, _ = apart
    options = "--trainer.devices=1", f"--trainer.max_steps={STEPS + 3}", f"--trainer.default_root_dir={tmp_path}/on"
    command = resume(folder, *options, f"--ckpt_path={folder / LAST}", UNSEEN)
    steps = [command.model.order(step) for step in range(STEPS, STEPS + 4)]
    assert [count for _, count in steps] == [3, 3, 4, 4], "in a round of one rank's, two particles take two steps"
    assert sorted(steps[0][0] + steps[1][0]) == [0, 1]
    states = command.trainer.optimizers[0].state
    counts = [{int(states[p]["step"]) for p in particle.field.parameters()} for particle in command.model.particles]
    assert sorted(map(tuple, counts)) == [(4,), (5,)]


def test_ranks_of_one_particle_average_its_gradient(together):
    first, second = together
    for name, gradient in first["shared"].items():
        torch.testing.assert_close(gradient, (first["local"][name] + second["local"][name]) / 2)
    assert not same(first["local"], second["local"]), "other cameras, noise and t"
    assert same(first["after"], second["after"])


def test_all_ranks_have_one_score_network(together):
    first, second = (rank_state["phi"] for rank_state in together)

    def leaves(tree):
        return [leaf for v in tree.values() for leaf in leaves(v)] if isinstance(tree, dict) else [tree]

    assert len(leaves(first)) > 10 and all(map(torch.equal, leaves(first), leaves(second)))


def test_a_signal_to_one_rank_requeues_a_slurm_job_with_all_particles(tmp_path):
    """Two tasks as srun starts them, and a scontrol that writes down what it is asked for."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", "--config", NERF, *TINY, UNSEEN]
    command += ["--trainer.devices=2", "--trainer.max_steps=4", "--model.particles=2", "--trainer.limit_val_batches=0"]
    command += ["--trainer.default_root_dir=run", *at(1, signal.SIGUSR1), "--trainer.callbacks.rank=1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    slurm = {"JOB_ID": "77", "JOB_NAME": "dream", "NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODEID": "0"}
    environment = os.environ | {f"SLURM_{key}": value for key, value in slurm.items()}
    environment |= PATHS | {"SIGNALS": "yes", "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    tasks = []
    for rank in "01":
        own = environment | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        tasks.append(subprocess.Popen(command, env=own, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
    said = [task.communicate(timeout=300)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
    saved = torch.load(tmp_path / "run" / "hpc_ckpt_1.ckpt", weights_only=True)
    counts = [int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()]
    assert saved["global_step"] == 2 and set(counts) == {2}
    moved = [name for name in saved["state_dict"] if ".field." in name or ".background.network." in name]
    assert len(counts) == len(moved), "of both particles"


def test_the_last_picture_shows_the_particles_of_all_ranks_without_a_checkpoint_too(tmp_path):
    """Two pictures on two ranks: in image.png they are what each rank had after its last step."""
    folder = tmp_path / "run"
    options = ["--trainer.enable_checkpointing=false", "--model.particles=2", "--model.particles_per_step=1"]
    options += ["--model.space=pixels", "--model.lr=0.5", "--trainer.enable_model_summary=false"]
    ranks = fit_on(2, folder, *options, config=IMAGE)
    written = torch.from_numpy(iio.imread(folder / "image.png")).float() / 255
    for rank, state in enumerate(ranks):
        for row in range(2):  # SDS and VSD
            picture = ((state["after"][f"pictures.{row}.{rank}"] + 1) / 2).clamp(0, 1)
            side = picture.shape[-1]
            seen = written[row * side : (row + 1) * side, rank * side : (rank + 1) * side].permute(2, 0, 1)
            assert (seen - picture).abs().max() < 0.5 / 255 + 1e-6


@pytest.mark.parametrize("strategy", ["auto", "{class_path: lightning_modules.parallel.ParticleParallelStrategy}"])
def test_several_ranks_answer_slurm_whether_the_strategy_is_named_or_not(tmp_path, monkeypatch, strategy):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vsd"])
    monkeypatch.setattr(Command, "fit", lambda *_, **__: None)
    monkeypatch.setattr(Command, "after_fit", lambda *_: None)
    trainer = run(["fit", "--config", NERF, *TINY, f"--trainer.strategy={strategy}", "--trainer.devices=2"]).trainer
    assert isinstance(trainer.strategy, ParticleParallelStrategy) and trainer.world_size == 2
    kinds = [type(callback) for callback in trainer.callbacks]
    assert kinds.count(Requeue) == 1
    assert kinds.index(VSDGuidance) < kinds.index(Requeue), "the checkpoint holds the score network's update"


def test_another_strategy_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strategy = "--trainer.strategy=ddp_find_unused_parameters_true"
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", NERF, *TINY, strategy, "--trainer.devices=2", "--trainer.default_root_dir=run"])
    assert ended.value.code == 2 and not Path("run").exists()
    assert "trainer.strategy: 'ddp_find_unused_parameters_true'" in capsys.readouterr().err


def two_ranks(folder: Path) -> list[str]:
    """The command of a small run on two ranks."""
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", "--config", NERF, *TINY, UNSEEN]
    command += ["--trainer.devices=2", "--trainer.max_steps=6", "--model.particles=2", "--trainer.limit_val_batches=0"]
    return [*command, f"--trainer.default_root_dir={folder}"]


def own_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | PATHS | {"OMP_NUM_THREADS": "1"}


def run_on_two(folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess:
    """A small run on two ranks that gets a signal."""
    command = [*two_ranks(folder), *more]
    return subprocess.run(command, env=own_environment() | environment, capture_output=True, text=True, timeout=300)


def errors(ended: subprocess.CompletedProcess) -> list[str]:
    return [line for line in ended.stderr.splitlines() if line.startswith("vsd: ") or "Traceback" in line]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_one_of_two_ranks_stops_both_after_the_same_step_with_a_checkpoint(tmp_path, number, code):
    ended = run_on_two(tmp_path / "run", *at(2, number), "--trainer.callbacks.rank=1", SIGNALS="yes")
    assert ended.returncode == code, ended.stderr
    (line,) = errors(ended)
    assert "stopped at step 3; resume: vsd fit --config " in line
    saved = torch.load(tmp_path / "run" / LAST, weights_only=True)
    counts = [int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()]
    assert saved["global_step"] == 3 and set(counts) == {3}


def test_the_death_of_a_rank_ends_the_other_and_is_named_with_the_command_that_resumes(tmp_path):
    begun = time.monotonic()
    ended = run_on_two(tmp_path / "run", *at(2, signal.SIGKILL), "--trainer.callbacks.rank=1", SIGNALS="yes")
    assert ended.returncode == 1 and time.monotonic() - begun < 100
    (line,) = errors(ended)
    assert line.startswith("vsd: rank 1 ended with SIGKILL; resume: vsd fit --config ")


def test_a_rank_that_stalls_ends_the_other_and_is_named(tmp_path):
    watch = "--trainer.callbacks+=lightning_modules.run.heartbeat.Heartbeats", "--trainer.callbacks.silence=5"
    options = *watch, *at(2, signal.SIGSTOP), "--trainer.callbacks.rank=1", "--checkpoint.every=1"
    ended = run_on_two(tmp_path / "run", *options, SIGNALS="yes")
    assert ended.returncode == 1, ended.stderr
    (line,) = errors(ended)
    assert line.startswith("vsd: rank 1 has been silent for 5 s; resume: vsd fit --config ")
    assert not running_in(tmp_path), "the one that was stopped included"


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, "rank 0 ended without a word"), (signal.SIGSTOP, "rank 0 has been silent for 5 s")],
)
def test_the_loss_of_the_first_rank_ends_the_other_which_names_it(tmp_path, number, words):
    watch = "--trainer.callbacks+=lightning_modules.run.heartbeat.Heartbeats", "--trainer.callbacks.silence=5"
    ended = run_on_two(tmp_path / "run", *watch, *at(2, number), "--trainer.callbacks.rank=0", SIGNALS="yes")
    assert ended.returncode == -signal.SIGKILL
    (line,) = errors(ended)
    assert line.startswith(f"vsd: {words}; resume: vsd fit --config ")
    assert not running_in(tmp_path)


def test_the_end_of_the_first_rank_while_the_other_starts_ends_that_too(tmp_path):
    first = subprocess.Popen(two_ranks(tmp_path / "run"), env=own_environment(), stderr=subprocess.PIPE, text=True)
    children, second = Path(f"/proc/{first.pid}/task/{first.pid}/children"), False
    while not second:
        assert first.poll() is None
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                second |= "LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_text().split("\0")
        time.sleep(0.02)
    first.kill()  # before the other has looked for its parent
    assert first.communicate(timeout=100)[1].endswith("vsd: rank 0 ended without a word\n")
    assert not running_in(tmp_path)
