"""How far a run is: a bar in a terminal, elsewhere a line now and then, both with what is left of the whole run."""

import os
import sys
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from typing_extensions import override

from lightning_modules.run.folder import PLACE


def progress() -> ProgressBar:
    """The bar for a terminal, the lines for anything else."""
    return StepBar() if sys.stdout.isatty() else StepLines()


class StepBar(RichProgressBar):
    """Lightning's bar, counting the steps of the whole run, a resumed one's from where it resumes.

    The metrics beside it are fetched ten times a second at most, since each fetch waits for the device.
    """

    def __init__(self):
        super().__init__(refresh_rate=10, leave=True)
        self._metrics: dict = {}
        self._fetched = 0.0

    @property
    @override
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps if self.trainer.max_steps > 0 else super().total_train_batches

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        if time.monotonic() - self._fetched > 0.1:
            # Without v_num, the end of the run's id at wandb.
            metrics = super().get_metrics(trainer, pl_module).items()
            self._metrics = {name.removeprefix("train/"): value for name, value in metrics if name != "v_num"}
            self._fetched = time.monotonic()
        return self._metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return os.environ.get(PLACE, "Training  ")  # as long as "Validation"


class StepLines(ProgressBar):
    """Prints a line with step, metrics, speed and time left now and then and at the last step.

    Args:
        seconds: Between two lines.
    """

    def __init__(self, seconds: float = 30.0):
        super().__init__()
        self.seconds, self.enabled = seconds, True

    @override
    def disable(self) -> None:
        self.enabled = False

    @override
    def enable(self) -> None:
        self.enabled = True

    @override
    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.begun = self.last = time.monotonic()
        self.first = trainer.global_step

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        now, step, total = time.monotonic(), trainer.global_step, trainer.max_steps
        if not self.enabled or (now - self.last < self.seconds and step != total):
            return
        self.last = now
        speed = (step - self.first) / (now - self.begun)
        words = [place] if (place := os.environ.get(PLACE)) else []
        words += [f"step {step}" + (f"/{total}" if total > 0 else "")]
        metrics = trainer.progress_bar_metrics.items()
        words += [f"{name.removeprefix('train/')} {float(value):.4g}" for name, value in metrics]
        words += [f"{speed:.2f} steps/s"]
        if total > 0:
            words += [f"{timedelta(seconds=round((total - step) / speed))} left"]
        print("  ".join(words), flush=True)

    @override
    def on_test_start(self, *_: Any) -> None:
        if self.enabled:
            print("rendering the turntable", flush=True)

    @override
    def on_predict_start(self, *_: Any) -> None:
        if self.enabled:
            print("rendering the camera path", flush=True)
