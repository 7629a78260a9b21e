"""Ctrl-C as a way to stop a run after the step it is in, with a checkpoint."""

import signal
import sys
import threading
from types import FrameType

import pytorch_lightning as pl

from lightning_modules.run_folder import RunFolder, resume_command


class Stoppable:
    """A context in which Ctrl-C does to a trainer what SIGTERM does; a second Ctrl-C stops at once.

    Lightning ends a fit on SIGTERM between two steps, with SIGTERMException, which LastCheckpoint answers with a
    checkpoint. On Ctrl-C alone it would end in the middle of one.
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
        """Says how to resume the run."""
        if self.trainer.is_global_zero:
            step = self.trainer.global_step
            print(f"vsd: stopped at step {step}; resume: {resume_command(folder.path)}", file=sys.stderr)
