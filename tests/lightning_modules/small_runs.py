"""Small runs of the NeRF stage through the command `vsd`, for tests."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytorch_lightning as pl
import torch

from lightning_modules.cli import Command, run
from lightning_modules.run.folder import CONFIG, LAST

ROOT = Path(__file__).parents[2]
NERF = str(ROOT / "configs" / "toybox" / "nerf.yaml")
LOOKS = {f"{name}-particle{i}.{end}" for name, end in (("turntable", "mp4"), ("contact", "png")) for i in range(2)}
TINY = [
    *("--model.field.hidden=8", "--model.field.occupancy=8", "--model.field.samples=8"),
    *("--data.eval_frames=2", "--data.validation_frames=1", "--data.eval_resolution=16"),
    *("--data.milestones=[{step: 0, resolution: 16, batch_size: 1}]", "--trainer.log_every_n_steps=1"),
    *("--trainer.enable_model_summary=false", "--trainer.accelerator=cpu", "--model.lr_decay=1"),
]
SMALL = [*TINY, "--model.particles=2", "--trainer.callbacks.kind=vsd", "--trainer.callbacks.score.warm_start=0"]
FEW_VIEWS = [
    *("--data.eval_frames=2", "--data.validation_frames=2", "--data.eval_resolution=16", "--model.particles=2"),
    *("--data.milestones=[{step: 0, resolution: 32, batch_size: 2}]", "--trainer.log_every_n_steps=1"),
    *("--trainer.enable_model_summary=false", "--trainer.accelerator=cpu", "--trainer.callbacks.score.warm_start=0"),
]
GEOMETRY = [*FEW_VIEWS[:-1], "--model.resolution=12", "--model.start_size=32"]
TEXTURE = [*FEW_VIEWS, "--model.texture_size=256", "--model.lr_decay=1"]
UNSEEN = "--trainer.limit_test_batches=0"  # no turntable
PATHS = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}  # of a process of its own that uses these callbacks


def fit(*more: str, steps: int) -> Command:
    return run(["fit", "--config", NERF, *SMALL, f"--trainer.max_steps={steps}", *more])


def fit_after(stage: str, nerf: Path, *more: str, steps: int) -> Command:
    """A small run of the geometry or texture stage after one of the NeRF stage."""
    config = str(ROOT / "configs" / "toybox" / f"{stage}.yaml")
    small = {"geometry": GEOMETRY, "texture": TEXTURE}[stage]
    return run(["fit", "--config", config, *small, f"--model.nerf={nerf}", f"--trainer.max_steps={steps}", *more])


def resume(folder: Path, *more: str) -> Command:
    return run(["fit", "--config", str(folder / CONFIG), "--ckpt_path", "last", *more])


def assert_same_end(one: Path, two: Path) -> None:
    """Both runs ended with the same particles, bit by bit."""
    ours, theirs = (torch.load(folder / LAST, weights_only=True)["state_dict"] for folder in (one, two))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


class At(pl.Callback):
    """Sends this process a signal in the middle of a step or of the validation after it, where SIGNALS is set."""

    def __init__(self, step: int, signal_number: int, rank: int = 0, validation: bool = False):
        self.step, self.number, self.rank, self.validation = step, signal_number, rank, validation

    def on_before_optimizer_step(self, trainer, *_):
        self.send(trainer, False)

    def on_validation_epoch_end(self, trainer, *_):
        self.send(trainer, True)

    def send(self, trainer, validation):
        here = trainer.global_step == self.step and trainer.global_rank == self.rank
        if here and validation == self.validation and "SIGNALS" in os.environ:
            os.kill(os.getpid(), self.number)


def at(step: int, number: int, validation: bool = False) -> list[str]:
    """The options that add `At`."""
    options = f"--trainer.callbacks.step={step}", f"--trainer.callbacks.signal_number={int(number)}"
    return ["--trainer.callbacks+=small_runs.At", *options, f"--trainer.callbacks.validation={str(validation).lower()}"]


class Remove(pl.Callback):
    """Removes the run folder before a step, as somebody who cleans up would."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            shutil.rmtree(trainer.lightning_module.run_folder)


class Rendered(pl.Callback):
    """Writes down which particles every rank renders for pictures: FOLDER/rendered-rankN, one index per line."""

    def __init__(self, folder: str):
        self.folder = folder

    def setup(self, trainer, pl_module, stage):
        picture, path = pl_module.picture, f"{self.folder}/rendered-rank{trainer.global_rank}"

        def recorded(index, cameras):
            with open(path, "a") as file:
                print(index, file=file)
            return picture(index, cameras)

        pl_module.picture = recorded


class Dump(pl.Callback):
    """Writes what every rank has at a step: FOLDER/rankN.pt.

    local: gradients of the particles before any exchange between ranks; shared: those that the optimizer sees; before,
    after: the particles; phi.
    """

    def __init__(self, step: int, folder: str):
        self.step, self.folder, self.seen = step, folder, {}

    @staticmethod
    def gradients(stage: pl.LightningModule) -> dict:
        return {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}

    def on_train_start(self, trainer, stage):
        self.seen["before"] = {name: p.clone() for name, p in stage.state_dict().items()}

    def on_after_backward(self, trainer, stage):
        if trainer.global_step == self.step:
            self.seen["local"] = self.gradients(stage)

    def on_before_optimizer_step(self, trainer, stage, _):
        if trainer.global_step == self.step:
            self.seen["shared"] = self.gradients(stage)

    def on_train_batch_end(self, trainer, stage, *_):
        if trainer.global_step == self.step + 1:
            network = stage.guidances[0].trainer and stage.guidances[0].trainer.network
            self.seen |= {"after": stage.state_dict(), "phi": network and network.state()}
            torch.save(self.seen, f"{self.folder}/rank{trainer.global_rank}.pt")


class Held(pl.Callback):
    """Writes what every rank holds in every step: FOLDER/held-rankN.pt, one entry per step.

    states: for each particle with an optimizer state its count of steps; gradients: of the particles that the step
    moves, as the optimizer sees them, in one vector each.
    """

    def __init__(self, folder: str):
        self.folder, self.steps = folder, []

    def on_before_optimizer_step(self, trainer, stage, optimizer):
        counts, gradients = {}, {}
        for i in range(stage.order.n):
            tensors = stage.particle_tensors(i)
            found = {int(optimizer.state[t]["step"]) for t in tensors if t in optimizer.state}
            counts |= {i: found} if found else {}
            grads = [t.grad.flatten() for t in tensors if t.grad is not None]
            gradients |= {i: torch.cat(grads)} if grads else {}
        self.steps.append({"states": {i: sorted(found) for i, found in counts.items()}, "gradients": gradients})

    def on_train_batch_end(self, trainer, *_):
        torch.save(self.steps, f"{self.folder}/held-rank{trainer.global_rank}.pt")


def running_in(folder: Path, seconds: float = 10) -> list[str]:
    """The processes whose arguments name a folder, awaited for some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # ended meanwhile
                if str(folder) in (process / "cmdline").read_text():
                    found.append(process.name)
        if not found:
            break
        time.sleep(0.2)
    return found
