"""A callback that measures a run: steps per second, the most GPU memory, and the means of what the stage logs."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

FIGURE = "figure: "  # begins the lines of an output that a report shows


class StepTimer(pl.Callback):
    """Prints one line when training ends.

    Args:
        skip: Steps at the start that do not count, in which kernels are chosen and compiled, >= 0.
    """

    def __init__(self, skip: int = 5):
        self.skip, self.steps, self.sums = skip, 0, {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Counts a step; the clock starts when the device has done the skipped ones."""
        self.steps += 1
        if self.steps > self.skip:
            for name, value in trainer.callback_metrics.items():
                if name.startswith("train/"):
                    self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        if self.steps == max(self.skip, 1):
            _wait(pl_module.device)
            self.start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the figures."""
        _wait(pl_module.device)
        counted = self.steps - max(self.skip, 1)
        if counted < 1:
            return
        parts = [f"{counted / (time.perf_counter() - self.start):.3g} steps/s"]
        if pl_module.device.type == "cuda":
            parts.append(f"at most {torch.cuda.max_memory_allocated(pl_module.device) / 2**30:.2f} GiB")
        means = {name: float(total) / (self.steps - self.skip) for name, total in self.sums.items()}
        print(FIGURE + ", ".join([*parts, *(f"{name} {mean:.4g}" for name, mean in sorted(means.items()))]), flush=True)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
