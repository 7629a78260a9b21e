"""How a run is stopped: between two steps with a checkpoint, before and after them with a line, and by SLURM."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_modules.run.folder import RunFolder, resume_command
from lightning_modules.run.saving import LastCheckpoint


class Terminated(BaseException):
    """SIGTERM while no training answers it."""


class Terminable:
    """A context in which SIGTERM raises Terminated, so that what has begun is undone. In a fit, Lightning answers."""

    def __enter__(self) -> "Terminable":
        self.handler = None
        if threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGTERM, terminated)
        return self

    def __exit__(self, *_) -> None:
        if self.handler is not None:
            signal.signal(signal.SIGTERM, self.handler)


def terminated(number: int, _: FrameType | None) -> None:
    """Handles SIGTERM.

    Args:
        number: Of the signal.

    Raises:
        Terminated: Unless Lightning's handler, which calls the one that it has replaced, is in charge.
    """
    if signal.getsignal(signal.SIGTERM) is terminated:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated


def ending(error: BaseException) -> tuple[int, str] | None:
    """The exit code and the words for what ended a run, where it was no wrong input and no defect.

    Args:
        error: What was raised.
    """
    if isinstance(error.__cause__, torch.OutOfMemoryError):  # whose switches the guidance has named
        return 1, str(error)
    interrupted = isinstance(error, KeyboardInterrupt)
    # Lightning turns Ctrl-C into exit code 1.
    if interrupted or (isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)):
        return 128 + signal.SIGINT, "interrupted"
    if isinstance(error, Terminated):
        return 128 + signal.SIGTERM, "terminated"
    full = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if full or isinstance(error, MemoryError | torch.OutOfMemoryError):
        words = " ".join(str(error).split())[:150]
        less = "model.particles, data.eval_resolution, or the resolution or batch_size in data.milestones"
        return 1, f"out of memory ({words}); lower {less}, or use a smaller model"
    if isinstance(error, OSError) and error.strerror:
        return 1, f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None


class Stoppable:
    """A context in which Ctrl-C does to a trainer what SIGTERM does; a second Ctrl-C stops at once.

    Lightning ends a fit on SIGTERM between two steps, with SIGTERMException, which LastCheckpoint answers with a
    checkpoint. On Ctrl-C alone it would end in the middle of one.

    Args:
        trainer: That fits inside the context.
    """

    def __init__(self, trainer: pl.Trainer):
        self.trainer, self.code = trainer, 128 + signal.SIGTERM

    def __enter__(self) -> "Stoppable":
        self.handler = None
        if threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_) -> None:
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)

    def _interrupted(self, number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self.handler)
        # Lightning listens to SIGTERM while it trains. Several ranks are not at the same step when the signal comes.
        if self.trainer.world_size > 1 or signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, terminated):
            raise KeyboardInterrupt
        self.code = 128 + number
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
        signal.raise_signal(signal.SIGTERM)

    def report(self, folder: RunFolder) -> None:
        """Prints how to resume the run.

        Args:
            folder: Of the run.
        """
        if self.trainer.is_global_zero:
            step = self.trainer.global_step
            print(f"vsd: stopped at step {step}; resume: {resume_command(folder.path)}", file=sys.stderr)


class AgreedStop(pl.Callback):
    """Answers SIGTERM and Ctrl-C to any of several ranks, with a checkpoint, after a step on which all agree.

    Ranks are not at the same place when a signal comes, and it may come to one of them alone.
    """

    def __init__(self):
        self.asked = self.agreed = 0  # numbers of signals
        self.handlers: dict[int, Any] = {}

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1 and not requeues(trainer):
            self.handlers = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        if not self.handlers:
            return
        asked = torch.tensor(float(self.asked), device=trainer.strategy.root_device)
        self.agreed = int(trainer.strategy.reduce(asked, reduce_op="max"))
        if self.agreed:
            for callback in trainer.callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        # Not before: the step's metrics and validation, which a resumed run does not repeat, come after the checkpoint.
        if self.agreed:
            self._restore()
            raise SIGTERMException(self.agreed)

    def _restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_batch_start()
        self._restore()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()


class Requeue(pl.Callback):
    """Answers SLURM's signal to requeue a job of several ranks after the step in which one of them has received it.

    Ranks are not at the same place when a signal comes. Lightning answers within the signal handler, where its
    checkpoint, which needs all of them, would wait in vain.
    """

    def __init__(self):
        self.asked = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.awaited = stage == "fit" and trainer.world_size > 1 and requeues(trainer)
        if self.awaited:
            self.signal = trainer.strategy.cluster_environment.requeue_signal
            self.handler = signal.signal(self.signal, self._ask)  # Lightning leaves a signal alone that has a handler

    def _ask(self, *_) -> None:
        self.asked = True

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        if self.awaited and trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            self.asked = False
            trainer._signal_connector._slurm_sigusr_handler_fn(self.signal, None)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.awaited:
            signal.signal(self.signal, self.handler)


class AnswerAtOnce(pl.Callback):
    """Answers SIGTERM outside training, in an export or while pictures are rendered, at once, as Ctrl-C is answered.

    What has been written is whole; the run, resumed, makes the rest. (Lightning waits for the end, or ends without a
    word.)
    """

    def _answer(self, trainer: pl.Trainer) -> None:
        if not requeues(trainer) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # until Lightning restores what it has found
            if trainer.received_sigterm:  # just before
                signal.raise_signal(signal.SIGTERM)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._answer(trainer)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._answer(trainer)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._answer(trainer)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._answer(trainer)


def requeues(trainer: pl.Trainer) -> bool:
    """Whether SLURM starts the run again, and decides itself what SIGTERM means.

    Args:
        trainer: Of the run.
    """
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue


def stopping(trainer: pl.Trainer) -> bool:
    """Whether this process has been told to end training.

    Args:
        trainer: That trains.
    """
    answers = [callback for callback in trainer.callbacks if isinstance(callback, AgreedStop | Requeue)]
    return trainer.received_sigterm or any(callback.asked for callback in answers)
