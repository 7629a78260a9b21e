"""Checkpoints of stages: one file per run, replaced by rename, that says what wrote it.

A checkpoint is Lightning's, plain tensors and Python values, with a marker: the format's version and the stage.
"""

import pickle
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from typing_extensions import override

from common.errors import InputError
from lightning_modules.run.folder import LAST

FORMAT = 4  # raise it when a checkpoint's content changes so that older ones do not load
KEY = "ckpt_path"  # names a checkpoint on the command line


class LastCheckpoint(Checkpoint):
    """Keeps checkpoints/last.ckpt in the run folder: every `every` steps, at the end, and when SIGTERM stops one rank.

    Lightning's ModelCheckpoint saves neither of the latter two, and writes through the system's temporary folder, so
    that a kill can leave half a file where that is another disk.

    Args:
        every: Steps of the trainer between two checkpoints, >= 1.

    Raises:
        InputError: `every` is impossible.
    """

    def __init__(self, every: int = 500):
        super().__init__()
        if every < 1:
            raise InputError(f"checkpoint.every: {every}; at least 1 is needed")
        self.every = every
        self.saved = -1

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = trainer.global_step

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # The last step is saved here too, not in on_train_end: from here Lightning resumes in the middle of its epoch,
        # so that a run with more steps continues as if it had never ended.
        due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if due or (trainer.received_sigterm and single_rank(trainer)):
            self.save(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.save(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Lightning raises this one between two steps; after any other, the state may be that of half a step.
        if isinstance(exception, SIGTERMException) and trainer.state.fn == TrainerFn.FITTING and single_rank(trainer):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the file, unless it holds this step already.

        Args:
            trainer: Of the stage.
        """
        if self.saved == trainer.global_step or trainer.fast_dev_run:
            return
        path = trainer.lightning_module.run_folder / LAST
        part = path.with_suffix(".part")
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            part.replace(path)
        trainer.strategy.barrier()
        self.saved = trainer.global_step


def single_rank(trainer: pl.Trainer) -> bool:
    """Whether a signal may be answered with a checkpoint; several ranks, not at the same step, would wait in vain.

    Args:
        trainer: Of the stage.
    """
    return trainer.world_size == 1


def mark(checkpoint: dict, stage: pl.LightningModule) -> None:
    """Adds the marker to a checkpoint.

    Args:
        checkpoint: Changed in place.
        stage: What writes it.
    """
    checkpoint["vsd"] = {"format": FORMAT, "stage": type(stage).__name__}


def require_mark(checkpoint: Any, stage: str, path: Path | str = "the checkpoint", key: str = KEY) -> None:
    """Checks the marker of a checkpoint.

    Args:
        checkpoint: What a file holds.
        stage: Name of the stage's class.
        path: Of the file, for errors.
        key: The option that names the file, for errors.

    Raises:
        InputError: It is of another stage, another format, or none of this project.
    """
    marker = checkpoint.get("vsd") if isinstance(checkpoint, dict) else None
    if not isinstance(marker, dict) or "format" not in marker or "stage" not in marker:
        raise InputError(f"{key}: {path} is no checkpoint of a stage; name one that a run of this program wrote")
    if marker["format"] != FORMAT:
        raise InputError(
            f"{key}: {path} has format {marker['format']}, this version reads format {FORMAT}; "
            "resume with the version that wrote it, or start anew"
        )
    if marker["stage"] != stage:
        raise InputError(f"{key}: {path} is of the stage {marker['stage']}, and {stage} is needed; name another")


def require_weights(state: dict, stage: pl.LightningModule) -> None:
    """Checks that a checkpoint's parameters are those of a stage.

    Args:
        state: The checkpoint's state_dict.
        stage: Whose parameters they should be.

    Raises:
        InputError: One is missing, unknown or of another shape.
    """
    ours = stage.state_dict()
    for name in sorted(ours.keys() | state.keys()):
        here, there = (tuple(s[name].shape) if name in s else None for s in (ours, state))
        if here != there:
            words = ["missing" if shape is None else f"of shape {shape}" for shape in (there, here)]
            raise InputError(
                f"ckpt_path: {name} is {words[0]} in the checkpoint and {words[1]} in the stage; "
                "resume with the config.yaml of the run"
            )


def read_checkpoint(path: Path, stage: str, key: str = KEY) -> dict:
    """Reads a checkpoint, memory-mapped, without executing anything in it.

    Args:
        path: Of the file.
        stage: Name of the stage's class that must have written it.
        key: The option that names the file, for errors.

    Raises:
        InputError: It does not exist, is damaged, or is anything else.
    """
    if not path.is_file():
        raise InputError(f"{key}: {path} does not exist; name a checkpoint, such as RUN/{LAST}")
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            raise InputError(f"{key}: {path} is no checkpoint; name one that a run of this program wrote")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{key}: {path} holds more than tensors and plain values; it was not loaded, name another"
        ) from error
    except Exception as error:
        # torch raises a dozen types for a damaged file.
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{key}: {path} is damaged ({reason}); name another checkpoint") from error
    require_mark(checkpoint, stage, path, key)
    return checkpoint
