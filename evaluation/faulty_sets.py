"""True pictures with faults, on which the measures are validated (see evaluation.faults)."""

import dataclasses

import torch
import torch.nn.functional as F

from evaluation.pictures import INSTANCES, SIZE, Pictures, white
from evaluation.truth_distance import TRUTH_SEED
from scene.cameras import Orbit
from toybox.world.builder import PARTS
from toybox.world.objects import build, stack, without
from toybox.world.render import render
from toybox.world.shapes import Solids


def look(solids: list[Solids], cameras: Orbit) -> Pictures:
    """True pictures of instances over white.

    Args:
        solids: N instances.
        cameras: V cameras.

    Returns:
        The set.
    """
    renders = [render(stack([one] * len(cameras)), cameras, SIZE) for one in solids]
    rgb = torch.stack([m.over(torch.ones(3)).permute(0, 3, 1, 2) for m in renders])
    return Pictures(rgb, torch.stack([m.alpha[..., 0] > 0.5 for m in renders]), white(len(renders), len(cameras)))


def mirrored(pictures: Pictures) -> Pictures:
    """Every view flipped, so that left and right sides are exchanged."""
    return dataclasses.replace(pictures, rgb=pictures.rgb.flip(-1), mask=pictures.mask.flip(-1))


def two_fronts(pictures: Pictures) -> Pictures:
    """The back half of the views replaced by the front half, seen as if from behind: the object of a Janus."""
    count = pictures.rgb.shape[1]
    # Azimuths 0, 45, 90, 135, 180, ...: a view from behind shows what its opposite shows.
    order = torch.tensor([(k + count // 2) % count if count / 4 < k < 3 * count / 4 else k for k in range(count)])
    return Pictures(pictures.rgb[:, order], pictures.mask[:, order], pictures.background[:, order])


def blurred(pictures: Pictures, sigma: float = 1.5) -> Pictures:
    """A Gaussian blur of `sigma` pixels."""
    reach = torch.arange(-5, 6).float()
    line = torch.exp(-0.5 * (reach / sigma) ** 2)
    line = (line / line.sum()).expand(3, 1, -1)
    images = F.pad(pictures.rgb.flatten(0, 1), (5, 5, 5, 5), mode="replicate")
    images = F.conv2d(F.conv2d(images, line[:, :, None], groups=3), line[..., None], groups=3)
    return dataclasses.replace(pictures, rgb=images.view(pictures.rgb.shape))


def noisy(pictures: Pictures, sigma: float = 0.08) -> Pictures:
    """Gaussian noise of standard deviation `sigma` on the object."""
    noise = torch.randn(pictures.rgb.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(pictures, rgb=(pictures.rgb + sigma * noise * pictures.mask[:, :, None]).clamp(0, 1))


def copied(pictures: Pictures) -> Pictures:
    """The first object as often as there are objects."""
    return pictures[torch.zeros(len(pictures), dtype=torch.long)]


def sets(name: str, colour: str, part: str, cameras: Orbit, count: int) -> dict[str, Pictures]:
    """The sets of an object: "none" is sound, the others have the faults of CAUGHT.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        part: The one that is dropped.
        cameras: V cameras, the front first.
        count: Instances of a set.

    Returns:
        The sets by fault.
    """
    instances = [build(name, colour, TRUTH_SEED + INSTANCES + i) for i in range(count)]
    sound = look(instances, cameras)
    missing = torch.arange(len(PARTS))[None] == PARTS.index(part)
    return {
        "none": sound,
        "blur": blurred(sound),
        "a part dropped": look([without(one, missing) for one in instances], cameras),
        "left and right exchanged": mirrored(sound),
        "two fronts": two_fronts(sound),
        "one object copied": copied(sound),
        "noise": noisy(sound),
    }
