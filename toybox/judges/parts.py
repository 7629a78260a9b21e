"""A judge of parts: a small convolutional network, trained on true renders alone, that segments pictures into parts.

It sees renders over random plain backgrounds, mirrored, with a little blur, noise and change of contrast, so that it
looks for parts and not for the renderer. Pictures have 64 pixels; the network's output has cells of 2 x 2 pixels, and
in each the probability that one of its pixels shows a part. The sum over the cells is the expected number of pixels of
the part, and a part counts as found when that is at least FOUND.
Its features also serve as the image encoder of `evaluation.kid`: they know shapes, parts and sharp edges.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cache import cache_folder
from common.files import atomic_write
from toybox.world.builder import BODY, PARTS
from toybox.world.renders import VERSION, Renders, load_parts, load_renders, random_backgrounds

TRAIN = 12288  # renders that the judge is trained on
STEPS = 1200  # of training
REVISION = 1  # raise it when the network or its training changes, so that cached judges are trained anew
VISIBLE = 4  # pixels of a part that make it visible in a true picture
FOUND = 2.0  # expected pixels of a part that was found
CELL = 2  # pixels of a side of a cell


class PartsNetwork(nn.Module):
    """A U-Net from pictures to parts: four levels, from 32 to 4 pixels, and back.

    Args:
        widths: Channels of the levels, the finest first.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128)):
        super().__init__()
        self.first = nn.Sequential(nn.PixelUnshuffle(CELL), _convolution(3 * CELL**2, widths[0]))
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(fine, coarse, stride=2), _convolution(coarse, coarse))
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.lift = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(widths, widths[1:], strict=False))
        self.join = nn.ModuleList(_convolution(width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], len(PARTS), 1)
        self.register_buffer("feature_mean", torch.zeros(2 * sum(widths)))
        self.register_buffer("feature_std", torch.ones(2 * sum(widths)))

    def levels(self, images: Tensor) -> list[Tensor]:
        """The feature maps on the way down.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, C, S, S) for S = 32, 16, 8, 4.
        """
        maps = [self.first(images.contiguous(memory_format=torch.channels_last))]
        for block in self.down:
            maps.append(block(maps[-1]))
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Features of pictures: means and standard deviations over the pixels of all maps on the way down.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, D), with mean 0 and standard deviation 1 over the training renders.
        """
        maps = [m.flatten(2) for m in self.levels(images)]
        features = torch.cat([x for m in maps for x in (m.mean(2), m.std(2))], 1)
        return (features - self.feature_mean) / self.feature_std

    def forward(self, images: Tensor) -> Tensor:
        """The logits of every cell's parts.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, P, 32, 32), P = len(PARTS).
        """
        maps = self.levels(images)
        x = maps.pop()
        for lift, join in zip(reversed(self.lift), reversed(self.join), strict=True):
            x = join(maps.pop() + F.interpolate(lift(x), scale_factor=2))
        return self.head(x)


def _convolution(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.SiLU(inplace=True)
    )


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

    def found(self, images: Tensor) -> Tensor:
        """Which parts the judge finds.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, P) bool.
        """
        return CELL**2 * self.probabilities(images).sum((2, 3)) >= FOUND

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
    return images + draw(0, 0.06) * noise


def train_parts_judge(renders: Renders, parts: Tensor, steps: int, batch_size: int = 32, seed: int = 0) -> PartsJudge:
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
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(steps, 2), pct_start=0.1)
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
    _standardise(judge, renders, rng)
    return judge


def _standardise(judge: PartsJudge, renders: Renders, rng: np.random.Generator) -> None:
    """Sets the mean and standard deviation of the features from at most 1024 renders."""
    index = torch.arange(min(1024, len(renders)))
    features = judge.features(renders.images(index, random_backgrounds(len(index), rng)))
    judge.network.feature_mean.copy_(features.mean(0))
    judge.network.feature_std.copy_(features.std(0).clamp(min=1e-3))


def parts_judge(count: int = TRAIN, steps: int = STEPS) -> PartsJudge:
    """The judge from the cache folder, or a new one, put there; four minutes of a core at the default size.

    Args:
        count: Training renders.
        steps: Of training.

    Returns:
        The judge.
    """
    path = cache_folder() / f"parts-judge-r{REVISION}-v{VERSION}-{count}-{steps}.pt"
    if path.exists():
        network = PartsNetwork()
        network.load_state_dict(torch.load(path, weights_only=True))
        return PartsJudge(network.to(memory_format=torch.channels_last).eval())
    judge = train_parts_judge(load_renders(count), load_parts(count), steps)
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
