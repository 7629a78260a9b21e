"""Parts that are found and should be, parts that are found and should not be, and second faces (Janus).

What the judge of an object's parts (`toybox.judges.parts`) finds in each view is held against what true instances show
from there. Shapes: N objects, V views, P parts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.pictures import Pictures, Truth
from toybox.judges.parts import VISIBLE, PartsJudge, pixels_of_parts
from toybox.world.builder import BODY

MOST = 0.75  # of the instances must show a part for it to be expected


@dataclass(frozen=True)
class Shown:
    """What true instances show in each view.

    Args:
        expected: (V, P) bool, parts with at least VISIBLE pixels in most instances; never the body.
        absent: (V, P) bool, parts of which no instance shows a pixel.
    """

    expected: Tensor
    absent: Tensor


def shown_by(truth: Truth) -> Shown:
    """What the true instances show.

    Args:
        truth: The instances.

    Returns:
        Which parts are expected, and which are absent, in each view.
    """
    pixels = pixels_of_parts(truth.parts)  # (N, V, P)
    expected = (pixels >= VISIBLE).float().mean(0) >= MOST
    absent = (pixels == 0).all(0)
    named = torch.arange(pixels.shape[-1]) > BODY
    return Shown(expected & named, absent & named)


def found_in(pictures: Pictures, judge: PartsJudge) -> Tensor:
    """The parts that the judge finds.

    Args:
        pictures: N objects in V views.
        judge: The judge.

    Returns:
        (N, V, P) bool.
    """
    return judge.found(pictures.network_images()).unflatten(0, pictures.rgb.shape[:2])


def part_recall(found: Tensor, shown: Shown) -> float | None:
    """The fraction of the expected parts that is found, over all objects and views.

    Args:
        found: (N, V, P) bool.
        shown: What the truth shows.

    Returns:
        In [0, 1]; None where no part is expected.
    """
    wanted = shown.expected.expand_as(found)
    return float(found[wanted].float().mean()) if wanted.any() else None


def false_parts(found: Tensor, shown: Shown) -> float:
    """How many parts per view are found of which the truth shows nothing there.

    Args:
        found: (N, V, P) bool.
        shown: What the truth shows.

    Returns:
        Mean number per view, >= 0.
    """
    return float((found & shown.absent).sum(-1).float().mean())


def janus_rate(found: Tensor, shown: Shown) -> float | None:
    """The fraction of wrong views in which a part of the front is seen.

    A part of the front is one that the truth shows in the first view; a view is wrong for it where no instance shows a
    pixel of it.

    Args:
        found: (N, V, P) bool.
        shown: What the truth shows, the front in the first view.

    Returns:
        In [0, 1]; None for an object whose front has no part of its own.
    """
    wrong = shown.expected[0] & shown.absent  # (V, P)
    views = wrong.any(-1)
    if not views.any():
        return None
    return float((found & wrong).any(-1)[:, views].float().mean())
