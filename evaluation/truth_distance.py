"""How far renders of an object are from the true objects of its prompt, without any alignment.

A look at an object is the pictures that the eight cameras of `cameras()` take of it over white: the front first, then
a turn in steps of 45 degrees at elevation 15. A distance between two looks is the mean absolute difference of the
pixels that belong to either object.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.cache import cache_folder, cached
from common.pixels import to_uint8
from scene.cameras import Orbit, turntable
from toybox.world.objects import OBJECTS, build, stack
from toybox.world.render import render
from toybox.world.renders import VERSION

VIEWS = 8
INSTANCES = 16  # true instances that the nearest is looked for among
WRONG = 2  # instances of each wrong object
TRUTH_SEED = 30_000_000  # instances that neither the prior nor the gates have seen


@dataclass
class Look:
    """Pictures of an object, or of several.

    Args:
        rgb: (..., V, H, W, 3) in [0, 1], over white.
        mask: (..., V, H, W) bool, the pixels of the object.
    """

    rgb: Tensor
    mask: Tensor


def cameras(distance: float, fovy: float) -> Orbit:
    """The eight cameras of a look.

    Args:
        distance: World units.
        fovy: Degrees.

    Returns:
        The cameras, the front first.
    """
    return turntable(VIEWS, elevation=15.0, distance=distance, fovy=fovy)


@cache
def true_looks(name: str, colour: str, count: int, first: int, distance: float, fovy: float, size: int) -> Look:
    """Looks at true instances, from the cache folder or rendered and put there.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        count: How many instances.
        first: The first one's number.
        distance: Of the cameras, world units.
        fovy: Degrees.
        size: Pixels of a side.

    Returns:
        The looks (count, V, ...).
    """
    stem = f"{colour}-{name}-{first}-{count}-{distance:g}-{fovy:g}-{size}px".replace(" ", "-")
    path = cache_folder() / f"looks-v{VERSION}" / f"{stem}.safetensors"

    def make() -> dict[str, Tensor]:
        look = _render_looks(name, colour, count, first, distance, fovy, size)
        return {"rgb": to_uint8(look.rgb), "mask": look.mask}

    tensors = cached(path, make)
    return Look(tensors["rgb"].float() / 255, tensors["mask"])


def _render_looks(name: str, colour: str, count: int, first: int, distance: float, fovy: float, size: int) -> Look:
    rgb, mask = [], []
    for i in range(count):
        solids = stack([build(name, colour, TRUTH_SEED + first + i)] * VIEWS)
        seen = render(solids, cameras(distance, fovy), size)
        rgb.append(seen.over(torch.ones(3)))
        mask.append(seen.alpha[..., 0] > 0.5)
    return Look(torch.stack(rgb), torch.stack(mask))


def nearest(look: Look, truth: Look) -> tuple[float, int]:
    """The distance from a look to the nearest of several.

    Args:
        look: (V, ...).
        truth: (N, V, ...).

    Returns:
        The distance in [0, 1], and which is the nearest.
    """
    either = (look.mask | truth.mask).float()
    difference = (look.rgb - truth.rgb).abs().mean(-1) * either
    distance = difference.sum((1, 2, 3)) / either.sum((1, 2, 3)).clamp(min=1)
    return float(distance.min()), int(distance.argmin())


@dataclass(frozen=True)
class Scale:
    """The ends of a prompt's score: mean distances to its true instances.

    Args:
        real: Of other true instances, score 1.
        wrong: Of other objects of the same colour, score 0.
    """

    real: float
    wrong: float

    def score(self, distance: float) -> float:
        """The score (wrong - distance) / (wrong - real).

        Args:
            distance: To the nearest true instance.

        Returns:
            1 for a true instance, 0 for another object of the same colour.
        """
        return (self.wrong - distance) / (self.wrong - self.real)


@cache
def scale(name: str, colour: str, distance: float, fovy: float, size: int) -> Scale:
    """The scale of a prompt: 16 further true instances, and two instances of each other object in its colour.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        distance: Of the cameras, world units.
        fovy: Degrees.
        size: Pixels of a side.

    Returns:
        The scale.
    """
    where = (distance, fovy, size)
    truth = true_looks(name, colour, INSTANCES, 0, *where)

    def mean(looks: Look) -> float:
        return sum(nearest(Look(*pair), truth)[0] for pair in zip(looks.rgb, looks.mask, strict=True)) / len(looks.rgb)

    others = [mean(true_looks(n, colour, WRONG, 0, *where)) for n in OBJECTS if n != name]
    return Scale(mean(true_looks(name, colour, INSTANCES, INSTANCES, *where)), sum(others) / len(others))
