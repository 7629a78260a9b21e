"""Renders of instances of one object that lack random parts, with their part maps.

Whoever learns parts from them cannot guess a part from the rest of the object: an eye is where one is seen, not where
one should be.
"""

import numpy as np
import torch
from torch import Tensor

from toybox.world.builder import BODY, PARTS
from toybox.world.objects import COLOURS, OBJECTS, build, stack, without
from toybox.world.render import render
from toybox.world.renders import HELD_OUT, CameraRanges, Renders

MISSING = 0.25  # of the named parts
BATCH = 16


def incomplete_renders(
    name: str,
    count: int,
    held_out: bool = False,
    seed: int = 0,
    colours: tuple[str, ...] = tuple(COLOURS),
    cameras: CameraRanges | None = None,
) -> tuple[Renders, Tensor]:
    """Renders instances of an object, each without random parts and seen by a random camera.

    Args:
        name: A key of OBJECTS.
        count: How many.
        held_out: Of the instances that are never trained on.
        seed: Another set of instances and cameras, >= 0.
        colours: Keys of COLOURS, in turn.
        cameras: Ranges of the cameras; by default those of the training renders, none of them from high above.

    Returns:
        N renders, and their part maps (N, 64, 64) uint8.
    """
    rng = np.random.default_rng([seed, int(held_out), list(OBJECTS).index(name)])
    orbit = (cameras or CameraRanges(high=0.0)).sample(count, rng)
    missing = torch.from_numpy(rng.random((count, len(PARTS))) < MISSING)
    missing[:, : BODY + 1] = False
    first = (HELD_OUT if held_out else 0) + 1_000_000 * seed
    rgba, parts = [], []
    for rows in torch.arange(count).split(BATCH):
        solids = stack([build(name, colours[int(i) % len(colours)], first + int(i)) for i in rows])
        seen = render(without(solids, missing[rows]), orbit[rows])
        pixels = torch.cat([seen.rgb, seen.alpha], -1).clamp(0, 1).mul(255).round().to(torch.uint8)
        rgba.append(pixels.permute(0, 3, 1, 2))
        parts.append(seen.parts.to(torch.uint8))
    colour = torch.tensor([list(COLOURS).index(colours[i % len(colours)]) for i in range(count)])
    return Renders(torch.cat(rgba), torch.full_like(colour, list(OBJECTS).index(name)), colour, orbit), torch.cat(parts)
