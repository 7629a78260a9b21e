"""Trains the smallest NeRF with a tiny untrained prior for long, with validation and checkpoints.

python tests/faults/long_run.py [--steps 20000] [--minutes 0]

Prints memory, open files and speed now and then, and a summary. Ends with 1 where the resident memory has grown by more
than 1 % or files were left open between the first tenth of the run, in which caches fill, and its end, or where the
last tenth took half as long again as the second.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import pytorch_lightning as pl

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lightning_modules")]

from small_prior import TARGETS, save_small_prior  # noqa: E402
from small_runs import UNSEEN, fit  # noqa: E402

PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20  # MiB
POINTS = 20  # of the record
SLOWER = 1.5


class Record(pl.Callback):
    """Writes down memory, open files and time at even distances, and ends the run after some minutes.

    Args:
        every: Steps between two points.
        minutes: After which the run ends, 0 for never.
    """

    points: list[tuple[int, float, int, float]] = []  # step, MiB, open files, CPU seconds

    def __init__(self, every: int, minutes: float):
        self.every, self.end = every, time.monotonic() + 60 * minutes if minutes else float("inf")

    def on_train_batch_start(self, trainer, *_):
        now, step = time.monotonic(), trainer.global_step
        if step % self.every == 0:
            gc.collect()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
            self.points.append((step, resident, len(os.listdir("/proc/self/fd")), time.process_time()))
            print("step {}: {:.1f} MiB, {} open files, {:.0f} s".format(*self.points[-1]), flush=True)
        if now > self.end:
            trainer.should_stop = True


def speeds(points: list[tuple]) -> list[float]:
    """Steps per second of the processor between the points, which other programs do not slow down."""
    return [(b[0] - a[0]) / (b[3] - a[3]) for a, b in zip(points, points[1:], strict=False)]


def main() -> None:
    """Trains and judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000, help="how many (default: 20000)")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so many, 0 for never (default: 0)")
    parser.add_argument("--every", type=int, default=0, help="steps between points (default: a 20th of the steps)")
    options = parser.parse_args()
    every = options.every or max(1, options.steps // POINTS)
    sys.argv, Record.points = sys.argv[:1], []
    sys.modules["long_run"] = sys.modules["__main__"]
    record = ["--trainer.callbacks+=long_run.Record", f"--trainer.callbacks.every={every}"]
    record += [f"--trainer.callbacks.minutes={options.minutes}"]
    with tempfile.TemporaryDirectory() as folder:
        save_small_prior(Path(folder) / "prior")
        prior = [f"--trainer.callbacks.model={folder}/prior", TARGETS]
        record = ["--model.particles=1", "--trainer.log_every_n_steps=50", *record]
        rest = [f"--trainer.val_check_interval={every}", f"--checkpoint.every={every}", UNSEEN]
        fit(*prior, *record, *rest, f"--trainer.default_root_dir={folder}/run", steps=options.steps)
    points = Record.points
    settled, last = points[max(1, len(points) // 10)], points[-1]
    rates, tenth = speeds(points), max(1, len(points) // 10)
    growth = last[1] / settled[1] - 1
    slower = mean(rates[tenth : 2 * tenth]) / mean(rates[-tenth:])
    print(f"{last[0]} steps, memory {settled[1]:.0f} MiB at step {settled[0]}, {last[1]:.0f} at the end: {growth:+.2%}")
    print(f"open files: {settled[2]}, at the end {last[2]}")
    print(f"steps per CPU second: {mean(rates[tenth : 2 * tenth]):.2f}, at the end {mean(rates[-tenth:]):.2f}")
    sys.exit(growth > 0.01 or last[2] > settled[2] or slower > SLOWER)


if __name__ == "__main__":
    main()
