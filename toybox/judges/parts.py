"""Judges of parts: small convolutional networks, one per object, trained on its true renders alone.

A judge segments pictures into the parts of its object; `toybox.judges.parts_training` trains it. Pictures have 64
pixels; the network's output has cells of 2 x 2 pixels, and in each the probability p that one of its pixels shows a
part. The evidence for a part is the sum of p^2 over all pixels, which is near their number where the judge is sure and
small where it only suspects. A part counts as found when its evidence exceeds a threshold of its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from toybox.judges.parts_network import CELL, PartsNetwork
from toybox.world.builder import PARTS

VISIBLE = 4  # pixels of a part that make it visible in a true picture


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
