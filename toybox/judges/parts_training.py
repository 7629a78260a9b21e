"""The training of the judges of parts, their cache, and their accuracy on held-out truth.

A judge learns from renders in all colours over random plain backgrounds, mirrored, with a little blur, noise and change
of contrast, so that it looks for parts and not for the renderer; and from instances that lack random parts, so that it
does not find an eye where an eye should be. (A single judge of all objects needs many times the training for that.) The
threshold of a part's evidence is the one at which misses and false alarms on further true renders are fewest.

`python -m toybox.judges.parts_training duck` prints a judge's accuracy on held-out truth.
"""

from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.cache import cache_folder
from common.command_line import OneLineArguments, one_line
from toybox.judges.parts import VISIBLE, PartsJudge, pixels_of_parts
from toybox.judges.parts_network import CELL, PartsNetwork
from toybox.judges.training import cached_network, start_training
from toybox.world.builder import BODY, PARTS, PARTS_KEY
from toybox.world.incomplete import incomplete_renders
from toybox.world.objects import OBJECTS, chosen_objects
from toybox.world.renders import VERSION, Renders, random_backgrounds

TRAIN = 2048  # renders that a judge is trained on
CALIBRATION = 512  # further ones, on which thresholds and the scale of features are set
HELD_OUT = 512  # renders of held-out instances, on which its accuracy is measured
STEPS = 1500  # of training
REVISION = 5  # raise it when the network or its training changes, so that cached judges are trained anew


def _cells(maps: Tensor) -> Tensor:
    """The pixels (B, 4, S / 2, S / 2) of the cells of maps (B, S, S)."""
    return F.pixel_unshuffle(maps[:, None], CELL)


def disturbed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures with a little blur, noise and change of contrast and brightness.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        rng: What the disturbances are drawn from.

    Returns:
        (B, 3, S, S).
    """
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return torch.tensor(rng.uniform(low, high, (count, 1, 1, 1)), dtype=torch.float32)

    # A 3 x 3 binomial kernel mixed with the identity: at most the blur of a Gaussian of 0.7 pixels.
    soft = F.avg_pool2d(F.avg_pool2d(F.pad(images, (1, 1, 1, 1), "replicate"), 2, 1), 2, 1)
    images = torch.lerp(images, soft, draw(0, 1))
    images = draw(0.9, 1.1) * images + draw(-0.05, 0.05)
    noise = torch.tensor(rng.standard_normal(images.shape, dtype=np.float32))
    return images + draw(0, 0.04) * noise


def train_parts_judge(renders: Renders, parts: Tensor, steps: int, batch_size: int = 16, seed: int = 0) -> PartsJudge:
    """Trains a judge; deterministic by seed and number of threads.

    Args:
        renders: N true pictures of 64 pixels.
        parts: (N, 64, 64) uint8, their part maps.
        steps: Batches.
        batch_size: Pictures of a batch.
        seed: Of the first weights, the order and the disturbances.

    Returns:
        The judge.
    """
    network, optimizer, schedule, rng = start_training(PartsNetwork, 3e-3, steps, seed)
    # Small parts count more per pixel: the weight falls with the square root of a part's pixels, 1 for the body.
    counts = torch.bincount(parts.flatten().long(), minlength=len(PARTS)).float()
    weights = (counts[BODY] / counts.clamp(min=1)).sqrt().clamp(0.3, 5.0)
    for _ in range(steps):
        index = torch.from_numpy(rng.integers(0, len(renders), batch_size))
        flip = torch.from_numpy(rng.random(batch_size) < 0.5)
        images = disturbed(renders.images(index, random_backgrounds(batch_size, rng), flip), rng)
        target = parts[index].long()
        target = _cells(torch.where(flip[:, None, None], target.flip(2), target))  # (B, 4, 32, 32)
        log_likelihood = network(images).log_softmax(1).gather(1, target)
        loss = -(weights[target] * log_likelihood).sum() / weights[target].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return PartsJudge(network.eval())


def calibrate(judge: PartsJudge, renders: Renders, parts: Tensor, seed: int = 0) -> None:
    """Sets a judge's thresholds, and the mean and standard deviation of its features.

    Args:
        judge: A trained judge.
        renders: N true pictures that it was not trained on.
        parts: (N, 64, 64) uint8, their part maps.
        seed: Of the disturbances.
    """
    rng = np.random.default_rng(seed)
    images = disturbed(renders.images(torch.arange(len(renders)), random_backgrounds(len(renders), rng)), rng)
    features = judge.features(images)
    judge.network.feature_mean.copy_(features.mean(0))
    judge.network.feature_std.copy_(features.std(0).clamp(min=1e-3))
    evidence, pixels = judge.evidence(images), pixels_of_parts(parts)
    for p in range(len(PARTS)):
        shown, absent = (evidence[rows[:, p], p] for rows in (pixels >= VISIBLE, pixels == 0))
        judge.network.threshold[p] = best_threshold(shown, absent)


def best_threshold(shown: Tensor, absent: Tensor) -> float:
    """The threshold with the fewest misses and false alarms, the sum of their fractions.

    Args:
        shown: Evidence of pictures that show the part.
        absent: Of pictures that do not.

    Returns:
        One between two of the values; infinite where no picture shows the part.
    """
    if not len(shown):
        return float("inf")
    edges = torch.cat([torch.zeros(1), shown, absent]).unique()  # ascending
    candidates = (edges[1:] + edges[:-1]) / 2
    cost = _below(shown, candidates) - (_below(absent, candidates) if len(absent) else 0)
    return float(candidates[cost.argmin()])


def _below(values: Tensor, candidates: Tensor) -> Tensor:
    """The fraction of the values below each candidate."""
    return torch.searchsorted(values.sort().values, candidates) / len(values)


def parts_judge(name: str, count: int = TRAIN, steps: int = STEPS) -> PartsJudge:
    """The judge of an object from the cache folder, or a new one, put there; two to three minutes of a core.

    Args:
        name: A key of OBJECTS.
        count: Training renders.
        steps: Of training.

    Returns:
        The judge.
    """
    stem = f"{name.replace(' ', '-')}-r{REVISION}-v{VERSION}-{PARTS_KEY}-{count}-{steps}.pt"
    path = cache_folder() / "parts-judges" / stem

    def train() -> PartsNetwork:
        judge = train_parts_judge(*incomplete_renders(name, count), steps)
        calibrate(judge, *incomplete_renders(name, min(count, CALIBRATION), seed=1))
        return judge.network

    return PartsJudge(cached_network(path, PartsNetwork, train))


@dataclass(frozen=True)
class PartAccuracy:
    """How a judge does on one part of held-out truth.

    Args:
        recall: Of the pictures that show the part (at least VISIBLE pixels), the fraction in which it is found.
        false_alarms: Of the pictures without a pixel of it, missing or hidden, the fraction in which it is found.
        shown: How many pictures show it.
    """

    recall: float
    false_alarms: float
    shown: int


def held_out_accuracy(judge: PartsJudge, renders: Renders, parts: Tensor) -> dict[str, PartAccuracy]:
    """Accuracy per part over random backgrounds.

    Args:
        judge: The judge.
        renders: N held-out pictures of its object.
        parts: (N, 64, 64), their part maps.

    Returns:
        By name, the parts that at least one picture shows, the body left out.
    """
    rng = np.random.default_rng(1)
    found = judge.found(renders.images(torch.arange(len(renders)), random_backgrounds(len(renders), rng)))
    pixels = pixels_of_parts(parts)
    accuracy = {}
    for p, name in enumerate(PARTS):
        shown, absent = pixels[:, p] >= VISIBLE, pixels[:, p] == 0
        if p > BODY and shown.any():
            rates = [float(found[rows, p].float().mean()) for rows in (shown, absent)]
            accuracy[name] = PartAccuracy(*rates, int(shown.sum()))
    return accuracy


def main(args: list[str] | None = None) -> None:
    """Prints the recall and false alarms per part of judges on held-out instances, which lack random parts too.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(prog="parts_training", description=main.__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="*", metavar="OBJECT", help=f"of {', '.join(OBJECTS)} (default: all)")
    with one_line("parts_training"):
        names = chosen_objects(parser.parse_args(args).objects)
    print(f"{'object':<12}{'part':<14}{'recall':>8}{'false alarms':>14}{'shown':>8}")
    for name in names:
        accuracy = held_out_accuracy(parts_judge(name), *incomplete_renders(name, HELD_OUT, held_out=True))
        for part, a in accuracy.items():
            print(f"{name:<12}{part:<14}{a.recall:>8.3f}{a.false_alarms:>14.3f}{a.shown:>8}")
        recall, alarms = (mean(getattr(a, key) for a in accuracy.values()) for key in ("recall", "false_alarms"))
        print(f"{name:<12}{'mean':<14}{recall:>8.3f}{alarms:>14.3f}", flush=True)


if __name__ == "__main__":
    main()
