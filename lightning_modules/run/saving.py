"""How a run writes its checkpoints: beside their target, replaced by rename, the one before kept."""

import errno
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from typing_extensions import override

from common.errors import InputError
from common.files import atomic_write, is_intact
from lightning_modules.run.folder import LAST, PREVIOUS


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its target, which it then replaces; what is last.ckpt becomes previous.ckpt.

    (Lightning writes into memory first, and then through the system's temporary folder, which may be small, and where
    a kill leaves the file for good.)

    Attributes:
        later: Whether a checkpoint is kept until `flush` writes it. It refers to the tensors that are trained, so that
            no step may come between.
    """

    def __init__(self):
        super().__init__()
        self.later = False
        self._kept: tuple[dict[str, Any], Path] | None = None

    def flush(self) -> None:
        """Writes the checkpoint that is kept, if there is one."""
        if self._kept is not None:
            (checkpoint, path), self._kept = self._kept, None
            if path.name == LAST.name:
                require_folder(path.parent.parent)
            self._replace(checkpoint, path)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self._kept = checkpoint, Path(path)
        if not self.later:
            self.flush()

    def _replace(self, checkpoint: dict[str, Any], path: Path) -> None:
        with atomic_write(path) as part:
            write(checkpoint, part)
            # A file that has been damaged since does not take the place of a good one.
            if path.name == LAST.name and is_intact(path):
                path.replace(path.with_name(PREVIOUS.name))


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint and waits until it is on the disk.

    Args:
        checkpoint: Plain tensors and values.
        path: Of the file.

    Raises:
        OSError: The disk is full, for example.
    """
    try:
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__  # torch's own words tell nothing of the disk
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from None


class LastCheckpoint(Checkpoint):
    """Keeps checkpoints/last.ckpt in the run folder: every `every` steps, at the end, and when SIGTERM stops one rank.

    Lightning's ModelCheckpoint saves neither of the latter two. The checkpoint before is kept as previous.ckpt. The
    file is written after the step's row of metrics and its validation, which a run that resumes from it does not
    repeat; only a signal has it written at once.

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
        self.asked = False  # to stop, while validation goes on
        self.files = CheckpointFiles()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.files

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = trainer.global_step

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        require_folder(trainer.lightning_module.run_folder)
        # The state of the last step is taken here too, not in on_train_end: from here Lightning resumes in the middle
        # of its epoch, so that a run with more steps continues as if it had never ended.
        signalled = trainer.received_sigterm and single_rank(trainer)
        if signalled or trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer, later=not signalled)

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self.files.flush()

    @override
    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.files.flush()
        self.save(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.files.flush()
        # Lightning raises this one between two steps; after any other, the state may be that of half a step.
        if isinstance(exception, SIGTERMException) and trainer.state.fn == TrainerFn.FITTING and single_rank(trainer):
            # Which has counted the step; a run that resumes counts that of its checkpoint once more, and would log the
            # rows that follow a step too late.
            loop = trainer.fit_loop.epoch_loop
            loop._batches_that_stepped -= 1
            self.save(trainer)
            loop._batches_that_stepped += 1

    @override
    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        require_folder(trainer.lightning_module.run_folder)

    @override
    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # Lightning would end the validation here, which a run that resumes from the step's checkpoint does not repeat.
        if trainer.state.fn == TrainerFn.FITTING and trainer.received_sigterm:
            self.asked, trainer._signal_connector.received_sigterm = True, False

    @override
    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.asked:
            self.asked, trainer._signal_connector.received_sigterm = False, True

    @override
    def on_test_start(self, trainer: pl.Trainer, *_: Any) -> None:
        require_folder(trainer.lightning_module.run_folder)

    def save(self, trainer: pl.Trainer, later: bool = False) -> None:
        """Writes the file, unless it holds this step already. All ranks must call it.

        Args:
            trainer: Of the stage.
            later: Whether the state is taken now, and the file written before the next step.
        """
        if self.saved != trainer.global_step and not trainer.fast_dev_run:
            self.files.later = later
            try:
                trainer.save_checkpoint(trainer.lightning_module.run_folder / LAST, weights_only=False)
            finally:
                self.files.later = False
            self.saved = trainer.global_step


def require_folder(folder: Path) -> None:
    """Checks that nobody has removed the run folder, which a write would make anew in part.

    Args:
        folder: Of the run.

    Raises:
        FileNotFoundError: It is gone.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder was removed while the run went on", str(folder))


def single_rank(trainer: pl.Trainer) -> bool:
    """Whether a signal may be answered with a checkpoint; several ranks, not at the same step, would wait in vain.

    Args:
        trainer: Of the stage.
    """
    return trainer.world_size == 1
