"""A judge of parts: a small convolutional network, trained on true renders alone, that segments pictures into parts.

It sees renders over random plain backgrounds, mirrored, with a little blur, noise and change of contrast, so that it
looks for parts and not for the renderer; and of instances that lack random parts, so that it does not find an eye where
an eye should be. Pictures have 64 pixels; the network's output has cells of 2 x 2 pixels, and
in each the probability p that one of its pixels shows a part. The evidence for a part is the sum of p^2 over all
pixels, which is near their number where the judge is sure and small where it only suspects. A part counts as found when
its evidence exceeds a threshold, its own, at which on training renders misses plus FALSE_COST times false alarms are
fewest.

`python -m toybox.judges.parts` prints its accuracy on held-out truth.
"""

from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.cache import cache_folder
from common.files import atomic_write
from toybox.judges.parts_network import CELL, PartsNetwork
from toybox.world.builder import BODY, PARTS, PARTS_KEY
from toybox.world.renders import VERSION, Renders, load_incomplete, random_backgrounds

TRAIN = 12288  # renders that the judge is trained on
HELD_OUT = 1920  # renders that its accuracy is measured on
STEPS = 3000  # of training
REVISION = 4  # raise it when the network or its training changes, so that cached judges are trained anew
VISIBLE = 4  # pixels of a part that make it visible in a true picture
FALSE_COST = 2.0  # of a false alarm over that of a miss
CALIBRATION = 4096  # renders on which thresholds and the scale of features are set


@dataclass(frozen=True)
class PartsJudge:
    """A trained network, ready to be asked.

    Args:
        network: In evaluation mode.
    """

    network: PartsNetwork

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The probability that a pixel of a cell shows a part.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, P, 32, 32), sums to 1 over P.
        """
        return torch.cat([self.network(part).softmax(1) for part in images.split(64)])

    def evidence(self, images: Tensor) -> Tensor:
        """How much speaks for each part.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, P), in pixels.
        """
        return CELL**2 * torch.cat([self.probabilities(part).square().sum((2, 3)) for part in images.split(64)])

    def found(self, images: Tensor) -> Tensor:
        """Which parts the judge finds.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, P) bool.
        """
        return self.evidence(images) > self.network.threshold

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features of pictures, see `PartsNetwork.features`.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, D).
        """
        return torch.cat([self.network.features(part) for part in images.split(64)])


def pixels_of_parts(maps: Tensor) -> Tensor:
    """How many pixels each part covers.

    Args:
        maps: (..., H, W), part indices.

    Returns:
        (..., P).
    """
    flat = maps.flatten(-2).long()
    counts = torch.zeros(*flat.shape[:-1], len(PARTS), dtype=torch.long)
    return counts.scatter_add_(-1, flat, torch.ones_like(flat))


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PartsNetwork()
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(steps, 2), pct_start=0.1)
    rng = np.random.default_rng(seed)
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
    judge = PartsJudge(network.eval())
    _calibrate(judge, renders, parts, rng)
    return judge


def _calibrate(judge: PartsJudge, renders: Renders, parts: Tensor, rng: np.random.Generator) -> None:
    """Sets the thresholds, and the mean and standard deviation of the features."""
    index = torch.arange(min(CALIBRATION, len(renders)))
    images = disturbed(renders.images(index, random_backgrounds(len(index), rng)), rng)
    features = judge.features(images)
    judge.network.feature_mean.copy_(features.mean(0))
    judge.network.feature_std.copy_(features.std(0).clamp(min=1e-3))
    evidence, pixels = judge.evidence(images), pixels_of_parts(parts[index])
    for p in range(len(PARTS)):
        shown, absent = evidence[pixels[:, p] >= VISIBLE, p], evidence[pixels[:, p] == 0, p]
        judge.network.threshold[p] = best_threshold(shown, absent)


def best_threshold(shown: Tensor, absent: Tensor) -> float:
    """The threshold with the fewest misses plus FALSE_COST times false alarms, both as fractions.

    Args:
        shown: Evidence of pictures that show the part.
        absent: Evidence of pictures that do not.

    Returns:
        One that is neither; infinite where no picture shows the part, 0 where all do.
    """
    if not len(shown):
        return float("inf")
    if not len(absent):
        return 0.0
    shown, absent = shown.sort().values, absent.sort().values
    edges = torch.cat([shown, absent]).unique()  # ascending
    candidates = torch.cat([edges[:1] / 2, (edges[1:] + edges[:-1]) / 2])
    misses = torch.searchsorted(shown, candidates) / len(shown)
    alarms = 1 - torch.searchsorted(absent, candidates) / len(absent)
    return float(candidates[(misses + FALSE_COST * alarms).argmin()])


def parts_judge(count: int = TRAIN, steps: int = STEPS) -> PartsJudge:
    """The judge from the cache folder, or a new one, put there; four minutes of a core at the default size.

    Args:
        count: Training renders.
        steps: Of training.

    Returns:
        The judge.
    """
    path = cache_folder() / f"parts-judge-r{REVISION}-v{VERSION}-{PARTS_KEY}-{count}-{steps}.pt"
    if path.exists():
        network = PartsNetwork()
        network.load_state_dict(torch.load(path, weights_only=True))
        return PartsJudge(network.to(memory_format=torch.channels_last).eval())
    judge = train_parts_judge(*load_incomplete(count), steps)
    with atomic_write(path) as temporary:
        torch.save(judge.network.state_dict(), temporary)
    return judge


@dataclass(frozen=True)
class PartAccuracy:
    """How a judge does on one part of held-out truth.

    Args:
        recall: Of the pictures that show the part (at least VISIBLE pixels), the fraction in which it is found.
        false_alarms: Of the pictures without a pixel of it, the fraction in which it is found.
        shown: How many pictures show it.
    """

    recall: float
    false_alarms: float
    shown: int


def held_out_accuracy(judge: PartsJudge, renders: Renders, parts: Tensor) -> dict[str, PartAccuracy]:
    """Accuracy per part over random backgrounds.

    Args:
        judge: The judge.
        renders: N held-out pictures.
        parts: (N, 64, 64), their part maps.

    Returns:
        By part name, without "nothing" and "body".
    """
    rng = np.random.default_rng(1)
    index = torch.arange(len(renders))
    found = judge.found(renders.images(index, random_backgrounds(len(renders), rng)))
    pixels = pixels_of_parts(parts)
    shown, absent = pixels >= VISIBLE, pixels == 0
    return {
        name: PartAccuracy(
            float(found[shown[:, p], p].float().mean()),
            float(found[absent[:, p], p].float().mean()),
            int(shown[:, p].sum()),
        )
        for p, name in enumerate(PARTS)
        if p > BODY
    }


def main() -> None:
    """Prints the judge's recall and false alarms per part on held-out instances, which lack random parts too."""
    judge = parts_judge()
    accuracy = held_out_accuracy(judge, *load_incomplete(HELD_OUT, held_out=True))
    print(f"{'part':<14}{'recall':>8}{'false alarms':>14}{'shown':>8}")
    for name, a in accuracy.items():
        print(f"{name:<14}{a.recall:>8.3f}{a.false_alarms:>14.4f}{a.shown:>8}")
    means = [mean(getattr(a, key) for a in accuracy.values()) for key in ("recall", "false_alarms")]
    print(f"{'mean':<14}{means[0]:>8.3f}{means[1]:>14.4f}")


if __name__ == "__main__":
    main()
