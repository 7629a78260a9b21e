"""What the live view costs a run while nobody looks.

python -m benchmarks.view_cost [--steps 200]

One run of the toybox's NeRF stage serves the page for five steps, does not for five, and so on, so that what slows the
machine down slows both alike. The figure is the process's own time per step, that of the server's thread included.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

CONFIG = Path(__file__).parents[1] / "configs" / "toybox" / "nerf.yaml"
BLOCK = 5  # steps with the page, and as many without
WARM = 2 * BLOCK  # steps that do not count


class Alternating(pl.Callback):
    """Opens and closes the page of the live view in turn, times the steps in between, and prints their ratio."""

    def __init__(self):
        self.times: dict[bool, list[float]] = {True: [], False: []}  # of steps, with the page and without
        self.viewer = self.hook = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Starts the clock, which stops when the viewer has had its turn."""
        if self.viewer is None:
            (self.viewer,) = (one for one in trainer.callbacks if type(one).__name__ == "Viewer")
            self.hook = self.viewer.on_train_batch_end
            self.viewer.on_train_batch_end = self.after_step
        self.step = trainer.global_step
        self.serves = self.step // BLOCK % 2 == 1
        if self.step % BLOCK == 0:
            self.viewer.close()
            if self.serves:
                self.viewer.on_train_start(trainer, pl_module)
        self.start = time.process_time()

    def after_step(self, *given: Any) -> None:
        """Stops the clock, in the viewer's place; the viewer has its turn before that where there is a page."""
        if self.serves:
            self.hook(*given)
        if self.step >= WARM:
            self.times[self.serves].append(time.process_time() - self.start)

    def on_train_end(self, *_: Any) -> None:
        """Prints the figures."""
        blocks = {
            serves: [sum(times[i : i + BLOCK]) for i in range(0, len(times), BLOCK)]
            for serves, times in self.times.items()
        }
        costs = [100 * (one / other - 1) for one, other in zip(blocks[True], blocks[False], strict=True)]
        low, middle, high = statistics.quantiles(costs, n=4)
        print(f"a step without the page: {1e3 * statistics.median(self.times[False]):.1f} ms")
        print(f"with it: {middle:+.2f} % ({low:+.2f} ... {high:+.2f}), {len(costs)} pairs of {BLOCK} steps", flush=True)


def main(args: list[str] | None = None) -> None:
    """Runs the benchmark.

    Args:
        args: Arguments of the command, None for the program's.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help=f"a multiple of {2 * BLOCK}")
    steps = parser.parse_args(args).steps
    if steps < 4 * WARM or steps % (2 * BLOCK):
        parser.error(f"--steps: {steps} is no multiple of {2 * BLOCK} from {4 * WARM} on")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_modules.cli", "fit", "--config", str(CONFIG), "--view"]
        command += ["--prompt=a yellow duck", f"--trainer.max_steps={steps}", "--trainer.enable_model_summary=false"]
        command += [f"--trainer.default_root_dir={folder}/run", "--trainer.limit_test_batches=0"]
        command += ["--trainer.limit_val_batches=0", "--trainer.callbacks+=benchmarks.view_cost.Alternating"]
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
