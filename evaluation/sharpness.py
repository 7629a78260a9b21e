"""Sharpness: the gradient magnitude inside the object over that of the truth.

The magnitude is a root mean square: the mean of an edge's gradients is its height, however soft it is. Blur lowers the
ratio, noise and speckles raise it above 1, so that 1 is the aim and more is no better.
"""

import torch.nn.functional as F
from torch import Tensor

from evaluation.pictures import Pictures


def gradient_magnitude(pictures: Pictures) -> Tensor:
    """The root mean square gradient magnitude of each view inside of the object, its outline left out.

    Args:
        pictures: N objects in V views.

    Returns:
        (V,), change of RGB per pixel.
    """
    rgb = pictures.rgb
    across = F.pad(rgb[..., 1:] - rgb[..., :-1], (0, 1))
    down = F.pad(rgb[..., 1:, :] - rgb[..., :-1, :], (0, 0, 0, 1))
    squared = (across.square() + down.square()).mean(2)  # (N, V, S, S)
    # A pixel counts when its 5 x 5 neighbours belong to the object: what soft outlines let through is no detail.
    inside = 1 - F.max_pool2d(1 - pictures.mask.float(), 5, 1, 2)
    return ((squared * inside).sum((0, 2, 3)) / inside.sum((0, 2, 3)).clamp(min=1)).sqrt()


def sharpness_ratio(pictures: Pictures, truth: Pictures) -> float:
    """The gradient magnitude inside the objects over that of the truth, each the mean over the views.

    Args:
        pictures: What is judged.
        truth: True instances in the same views.

    Returns:
        >= 0, 1 for the truth.
    """
    return float(gradient_magnitude(pictures).mean() / gradient_magnitude(truth).mean().clamp(min=1e-8))
