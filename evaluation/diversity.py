"""Diversity: how much the objects of a set differ, over how much true instances do.

Objects are cut out along their masks and reduced to 16 pixels, so that shape, size and colours count, and neither
backgrounds nor noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.pictures import Pictures

REDUCED = 16  # pixels of a side


def mean_pairwise_distance(pictures: Pictures) -> float:
    """The mean absolute difference between two objects in the same view, over all pairs and views.

    Args:
        pictures: N >= 2 objects.

    Returns:
        In [0, 1].
    """
    images = F.avg_pool2d(pictures.over_white().flatten(0, 1), pictures.rgb.shape[-1] // REDUCED)
    rows = images.unflatten(0, pictures.rgb.shape[:2]).flatten(1)  # (N, V 3 16 16)
    return float(torch.pdist(rows, p=1).mean() / rows.shape[1])


def diversity(pictures: Pictures, truth: Pictures) -> float | None:
    """The mean distance between two objects over that between two true instances.

    Args:
        pictures: What is judged.
        truth: True instances in the same views.

    Returns:
        0 for copies, 1 for the truth; None for a single object.
    """
    if len(pictures) < 2:
        return None
    return mean_pairwise_distance(pictures) / mean_pairwise_distance(truth)


def proportions(pictures: Pictures) -> Tensor:
    """What varies between true instances, measured from the masks: size, and height over width.

    Args:
        pictures: N objects in V views.

    Returns:
        (N, V, 2): the square root of the covered area in pixels, and height over width.
    """
    mask = pictures.mask.float()
    height, width = (mask.amax(axis).sum(-1).clamp(min=1) for axis in (-1, -2))
    return torch.stack([mask.sum((-1, -2)).sqrt(), height / width], -1)


def coverage(pictures: Pictures, truth: Pictures) -> float | None:
    """How much of the truth's variation of sizes and proportions a set has.

    Args:
        pictures: What is judged.
        truth: True instances in the same views.

    Returns:
        The mean over views and proportions of the standard deviation over that of the truth; None for a single object.
    """
    if len(pictures) < 2:
        return None
    mine, real = (proportions(p).std(0) for p in (pictures, truth))
    return float((mine / real.clamp(min=1e-6)).mean())
