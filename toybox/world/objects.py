"""The twelve toybox objects, each a distribution of solids built from coloured primitives.

An object faces +x, stands along z and is mirror-symmetric about the plane y = 0. `build(name, colour, seed)` is one
instance of it: the same three arguments always give the same instance. The named colour is that of the main parts;
wheels, beaks, trunks and the like have colours and part names of their own (see `toybox.world.builder`).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from toybox.world.builder import COLOURS, Builder
from toybox.world.objects_all_around import ice_cream, mushroom, rocket, snowman, table, tree
from toybox.world.objects_with_front import car, chair, duck, house, mug, robot
from toybox.world.shapes import Solids

VANISHED = 1000.0  # times smaller a primitive is that is left out
OBJECTS: dict[str, Callable[[Builder], None]] = {
    "car": car,
    "duck": duck,
    "chair": chair,
    "mug": mug,
    "house": house,
    "robot": robot,
    "mushroom": mushroom,
    "snowman": snowman,
    "tree": tree,
    "rocket": rocket,
    "table": table,
    "ice cream": ice_cream,
}
WITH_FRONT = ("car", "duck", "chair", "mug", "house", "robot")


def chosen_objects(names: list[str]) -> list[str]:
    """The objects that a command line names.

    Args:
        names: Of objects; none for all.

    Raises:
        InputError: One of them is none of the toybox.
    """
    for name in names:
        if name not in OBJECTS:
            raise InputError(f"OBJECT: unknown object {name[:40]!r}; the toybox has {', '.join(OBJECTS)}")
    return names or list(OBJECTS)


def build(name: str, colour: str, seed: int) -> Solids:
    """One instance of an object.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS, of the main parts.
        seed: Which instance, >= 0; the same three arguments always give the same one.

    Returns:
        A batch of one solid.
    """
    rng = np.random.default_rng([list(OBJECTS).index(name), list(COLOURS).index(colour), seed])
    builder = Builder(colour, rng)
    OBJECTS[name](builder)
    return builder.solids()


def without(solids: Solids, missing: Tensor) -> Solids:
    """Instances without some of their parts.

    Args:
        solids: B instances.
        missing: (B, len(PARTS)) bool, the parts that are left out.

    Returns:
        B instances with the same primitives, of which the missing ones are too small to be seen.
    """
    gone = missing[:, list(solids.parts)]  # (B, P)
    return replace(solids, to_local=torch.where(gone[..., None, None], VANISHED * solids.to_local, solids.to_local))


def stack(solids: list[Solids]) -> Solids:
    """Joins instances of the same object into one batch.

    Args:
        solids: Batches with the same primitives in the same order.

    Returns:
        The batch of all of them.
    """
    return Solids(
        solids[0].kinds,
        torch.cat([s.to_local for s in solids]),
        torch.cat([s.taper for s in solids]),
        torch.cat([s.colours for s in solids]),
        solids[0].parts,
    )
