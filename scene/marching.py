"""Samples along rays through the occupied cells of a cube, in torch on any device; the reference for nerfacc's kernel.

R rays, S lattice intervals per ray, N samples. The lattice follows nerfacc's marching rule: edges at (shift +) k step
from the ray's origin, an interval counts if its midpoint lies in the cube and in an occupied cell.
"""

import torch
from torch import Tensor

from scene.occupancy import OccupancyGrid


def enter_cube(origins: Tensor, directions: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube [-bound, bound]^3.

    Args:
        origins: (R, 3), world units.
        directions: (R, 3), unit length.
        bound: Half the cube's side.

    Returns:
        Distances (R,) and (R,), the first one >= 0; enter >= leave for a miss.
    """
    inverse = 1 / torch.where(directions.abs() < 1e-12, 1e-12, directions)
    one, two = (-bound - origins) * inverse, (bound - origins) * inverse
    return torch.minimum(one, two).amax(-1).clamp(min=0), torch.maximum(one, two).amin(-1)


def first_edges(enter: Tensor, jitter: Tensor | None, step: float) -> tuple[Tensor, Tensor]:
    """The lattices of rays that enter the cube.

    Args:
        enter: (R,), distances at which the rays enter.
        jitter: (R,) in [0, 1), by which part of a step a lattice is shifted; None for no shift.
        step: Length of an interval, world units.

    Returns:
        Each lattice's shift (R,), a distance, and the index (R,) of its last edge before the ray enters.
    """
    shift = torch.zeros_like(enter) if jitter is None else jitter * step
    return shift, ((enter - shift) / step).floor().clamp(min=0)


def march(
    origins: Tensor, directions: Tensor, jitter: Tensor | None, step: float, grid: OccupancyGrid
) -> tuple[Tensor, Tensor]:
    """The intervals in occupied space, by a mask over all R x S midpoints.

    Args:
        origins: (R, 3), world units.
        directions: (R, 3), unit length.
        jitter: (R,) in [0, 1), by which part of a step each ray's lattice is shifted; None for no shift.
        step: Length of an interval, world units.
        grid: The cube and its occupied cells.

    Returns:
        The ray (N,), long, and the start (N,), a distance, of each interval, ray by ray from near to far.
    """
    enter, leave = enter_cube(origins, directions, grid.bound)
    shift, first = first_edges(enter, jitter, step)
    count = int(2 * grid.bound * 3**0.5 / step) + 3
    start = shift[:, None] + (first[:, None] + torch.arange(count, device=enter.device)) * step  # (R, S)
    middle = start + step / 2
    inside = (middle >= enter[:, None]) & (middle < leave[:, None])
    ray, k = inside.nonzero(as_tuple=True)  # of the midpoints in the cube
    occupied = grid.occupied(origins[ray] + middle[ray, k, None] * directions[ray])
    kept = occupied.nonzero()[:, 0]  # once: every use of a mask waits for the device
    ray = ray[kept]
    return ray, start[ray, k[kept]]
