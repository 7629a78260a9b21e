"""The network of the judge of parts: a small U-Net that segments pictures into cells of 2 x 2 pixels.

Its features also serve as the image encoder of `evaluation.kid`: they know shapes, parts and sharp edges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toybox.world.builder import PARTS

CELL = 2  # pixels of a side of a cell


class PartsNetwork(nn.Module):
    """A U-Net from pictures to parts: four levels, from 32 to 4 pixels, and back.

    Args:
        widths: Channels of the levels, the finest first.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64, 96)):
        super().__init__()
        self.first = nn.Sequential(
            nn.PixelUnshuffle(CELL), _convolution(3 * CELL**2, widths[0]), _convolution(widths[0], widths[0])
        )
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(fine, coarse, stride=2), _convolution(coarse, coarse))
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.lift = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(widths, widths[1:], strict=False))
        self.join = nn.ModuleList(_convolution(width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], len(PARTS), 1)
        self.register_buffer("threshold", torch.zeros(len(PARTS)))
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
