"""Times of jobs that are compared with each other, on a machine that may be busy with other things."""

import statistics
import time
from collections.abc import Callable

import torch


def interleaved(jobs: list[Callable[[], object]], repeats: int, device: str = "cpu") -> list[list[float]]:
    """Times jobs in turn, so that what slows the machine down slows all alike, after two rounds of warming up.

    On one CPU thread it is the process's own time that counts, which other programs hardly stretch, otherwise the wall
    clock's.

    Args:
        jobs: What is timed.
        repeats: Rounds that count.
        device: That the jobs run on, waited for before and after each.

    Returns:
        Seconds, by job and repetition.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 2):
        for job, kept in zip(jobs, times, strict=True):
            wait(device)
            start = clock()
            job()
            wait(device)
            if turn >= 2:
                kept.append(clock() - start)
    return times


def wait(device: str) -> None:
    """Waits until the device has done what it was told."""
    if device != "cpu":
        torch.accelerator.synchronize()


def row(name: str, values: list[float], unit: str = "ms", factor: float = 1e3) -> float:
    """Prints the median and the quartiles of a column of times.

    Args:
        name: The row's.
        values: At least two.
        unit: Of what is printed.
        factor: From the values to that unit.

    Returns:
        The median, in that unit.
    """
    low, middle, high = (factor * q for q in statistics.quantiles(values, n=4))
    print(f"  {name:<40}{middle:>10.2f} {unit:<3}({low:.2f} ... {high:.2f})", flush=True)
    return middle
