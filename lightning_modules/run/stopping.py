"""Signals between two steps: Ctrl-C, which stops a run with a checkpoint, and SLURM's to several ranks at once."""

import signal
import sys
import threading
from types import FrameType

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import SLURMEnvironment
from typing_extensions import override

from lightning_modules.run.folder import RunFolder, resume_command


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
        if self.trainer.world_size > 1 or not callable(signal.getsignal(signal.SIGTERM)):
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


class Requeue(pl.Callback):
    """Answers SLURM's signal to requeue a job of several ranks after the step in which one of them has received it.

    Ranks are not at the same place when a signal comes. Lightning answers within the signal handler, where its
    checkpoint, which needs all of them, would wait in vain.
    """

    def __init__(self):
        self.asked = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        several = stage == "fit" and trainer.world_size > 1
        environment = trainer.strategy.cluster_environment if several else None
        self.awaited = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        if self.awaited:
            # Lightning leaves a signal alone that has a handler.
            self.signal, self.handler = environment.requeue_signal, signal.signal(environment.requeue_signal, self._ask)

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
