"""Patch distance: sliced Wasserstein distance of Laplacian-pyramid patches against truth.

Each level of the pyramid holds the details of one scale; patches of 7 x 7 pixels around pixels of the object are
compared as distributions, along random directions. Blur empties the fine levels, noise fills them.
Source: Karras et al. 2018, Progressive Growing of GANs, section 5.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.pictures import Pictures

LEVELS = 3
PATCH = 7
PATCHES = 2048  # per object and level
DIRECTIONS = 128


def pyramid(images: Tensor, levels: int = LEVELS) -> list[Tensor]:
    """The Laplacian pyramid.

    Args:
        images: (B, 3, S, S), S divisible by 2^(levels - 1).
        levels: How many.

    Returns:
        (B, 3, S / 2^k, S / 2^k) for each level k: the details, and last what is left. `images` is the sum of all,
        each enlarged.
    """
    result = []
    for _ in range(levels - 1):
        small = F.avg_pool2d(images, 2)
        result.append(images - _enlarged(small))
        images = small
    return [*result, images]


def _enlarged(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2, mode="bilinear")


def patches(level: Tensor, mask: Tensor, generator: torch.Generator, count: int = PATCHES) -> Tensor:
    """Patches around random pixels of the object.

    Args:
        level: (B, 3, S, S).
        mask: (B, S, S) bool.
        generator: What the pixels are drawn from, with replacement.
        count: How many.

    Returns:
        (count, 3, PATCH, PATCH).
    """
    half = PATCH // 2
    padded = F.pad(level, (half, half, half, half), mode="replicate")
    where = mask.nonzero()  # (M, 3)
    image, row, column = where[torch.randint(len(where), (count,), generator=generator)].T
    step = torch.arange(PATCH)
    rows, columns = (row[:, None] + step)[:, :, None], (column[:, None] + step)[:, None]
    return padded[image[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def projections(points: Tensor, directions: Tensor) -> Tensor:
    """Points along directions, in order.

    Args:
        points: (M, D).
        directions: (D, K), unit vectors.

    Returns:
        (K, M), ascending.
    """
    return (directions.T @ points.T).sort(1).values


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """The mean Wasserstein-1 distance of two point sets along directions.

    Args:
        a: (K, M), the `projections` of one.
        b: (K, M), those of the other along the same directions.

    Returns:
        >= 0.
    """
    return float((a - b).abs().mean())


def patch_distance(pictures: Pictures, truth: Pictures, seed: int = 0) -> float | None:
    """The mean over the levels, and over the objects one by one, of the patches' distance to the truth.

    One object at a time, so that the figure does not depend on how many there are; patches are in units of the standard
    deviation of the truth's, by channel and level.

    Args:
        pictures: What is judged.
        truth: True instances in the same views.
        seed: Of the patches and directions.

    Returns:
        >= 0, small but not 0 for a true instance; None where an object covers no pixel.
    """
    if not pictures.mask.flatten(1).any(1).all():
        return None
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(3 * PATCH**2, DIRECTIONS, generator=generator), dim=0)
    distances = []
    for level, (real, mask) in enumerate(_levels(truth)):
        right = patches(real, mask, generator)
        centre, spread = right.mean((0, 2, 3), keepdim=True), right.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
        target = projections(((right - centre) / spread).flatten(1), directions)
        for i in range(len(pictures)):
            mine = (patches(*_levels(pictures[i : i + 1])[level], generator) - centre) / spread
            distances.append(sliced_wasserstein(projections(mine.flatten(1), directions), target))
    return sum(distances) / len(distances)


def _levels(pictures: Pictures) -> list[tuple[Tensor, Tensor]]:
    """The pyramid (N V, 3, S, S) of a set, and at each level the pixels (N V, S, S) of the object."""
    mask = pictures.mask.flatten(0, 1).float()[:, None]
    levels = pyramid(pictures.rgb.flatten(0, 1))
    return [(level, F.max_pool2d(mask, 2**k)[:, 0] > 0) for k, level in enumerate(levels)]
