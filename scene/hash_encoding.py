"""Multiresolution hash encoding in plain torch with a hand-written backward, the reference of scene.hashgrid.

Shapes: N points, L levels, F features per level. The parameter tensor is the concatenation over levels of (n_l, F)
tables, feature fastest.
Source: Mueller et al. 2022, Instant-NGP; layout and arithmetic as documented by tiny-cuda-nn's GridEncoding.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Interpolation = Literal["linear", "smoothstep"]
PRIMES = (1, 2654435761, 805459861)
MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Level:
    """One level of the grid.

    Args:
        scale: Cells across the unit cube, s_l.
        resolution: Vertices per axis, r_l.
        entries: Length of its table, n_l.
        offset: Of its table in the parameters, in entries.
        hashed: Whether its table has fewer entries than the level has vertices.
    """

    scale: float
    resolution: int
    entries: int
    offset: int
    hashed: bool


def grid_levels(
    count: int, log2_hashmap_size: int, base_resolution: int, per_level_scale: float, padded: bool = False
) -> list[Level]:
    """The sizes of all levels, in float32 as tiny-cuda-nn computes them.

    Args:
        count: L.
        log2_hashmap_size: Base-2 logarithm of the longest table's length.
        base_resolution: Of the coarsest level, vertices per axis.
        per_level_scale: Factor between the scales of two levels.
        padded: Whether an axis has the vertex beyond the last, which points near the cube's far sides reach.

    Returns:
        The levels, coarsest first.
    """
    levels: list[Level] = []
    offset = 0
    for level in range(count):
        exponent = np.float32(level) * np.log2(np.float32(per_level_scale))
        scale = np.float32(np.exp2(exponent) * np.float32(base_resolution) - np.float32(1))
        resolution = int(np.ceil(scale)) + 1 + padded
        dense = -(-(resolution**3) // 8) * 8
        entries = min(dense, 1 << log2_hashmap_size)
        levels.append(Level(float(scale), resolution, entries, offset, resolution**3 > entries))
        offset += entries
    return levels


def corner_indices(level: Level, grid: Tensor) -> Tensor:
    """Where in a level's table the corners of cells lie.

    Args:
        level: The level.
        grid: Cells (3, N), int64, x first.

    Returns:
        Table indices (2, 2, 2, N), int64; the axes are z, y, x, then points.
    """
    x, y, z = (torch.stack([axis, axis + 1]) for axis in grid)  # (2, N) each
    if level.hashed:
        # The table's length is a power of two: its remainder is a mask, which may be taken before the xor.
        low = level.entries - 1
        return (x & low) ^ (y * PRIMES[1] & low)[:, None] ^ (z * PRIMES[2] & low)[:, None, None]
    index = x + (y * level.resolution)[:, None] + (z * level.resolution**2)[:, None, None]
    # Dense levels wrap too: the shift by half a cell lets a corner lie one vertex beyond the last, unless padded.
    return (index & MASK) % level.entries


def cell(level: Level, points: Tensor) -> tuple[Tensor, Tensor]:
    """In which cells of a level points lie.

    Args:
        level: The level.
        points: (3, N), in [0, 1] inside the cube.

    Returns:
        Cells (3, N), int64, and the positions (3, N) in [0, 1) inside them.
    """
    # The product is rounded once, as in a fused multiply-add.
    position = (points.double() * level.scale + 0.5).to(points.dtype)
    grid = position.floor()
    return grid.long(), position - grid


def corner_values(column: Tensor, index: Tensor) -> Tensor:
    """One feature's values (n_l,) at table indices of any shape, in that shape."""
    return column.index_select(0, index.view(-1)).view(index.shape)  # several times faster than indexing


def corner_weights(inside: Tensor) -> Tensor:
    """Trilinear weights (2, 2, 2, N) of the corners for positions (3, N) inside the cell; axes as in corner_indices."""
    x, y, z = (torch.stack([1 - axis, axis]) for axis in inside)  # (2, N) each
    return (z[:, None] * y)[:, :, None] * x


def interpolate(corners: Tensor, inside: Tensor) -> Tensor:
    """Values (N,) at positions (3, N) inside cells from those of their corners (2, 2, 2, N)."""
    x, y, z = inside
    planes = torch.lerp(*corners, z)  # (2, 2, N)
    return torch.lerp(*torch.lerp(*planes, y), x)


def slopes(corners: Tensor, inside: Tensor) -> Tensor:
    """Derivatives (3, N) of `interpolate` with respect to the positions inside the cells."""
    x, y, z = inside
    back, front = corners  # (2, 2, N) each
    planes = torch.lerp(back, front, z)  # (2, 2, N)
    low, high = torch.lerp(*planes, y)  # (N,) each
    across = torch.lerp(*(planes[1] - planes[0]), x)
    through = torch.lerp(*torch.lerp(*(front - back), y), x)
    return torch.stack([high - low, across, through])


def ease(inside: Tensor) -> Tensor:
    """Smoothstep 3 u^2 - 2 u^3, which goes from 0 to 1 as u does, level at both ends."""
    return inside * inside * (3 - 2 * inside)


def ease_slope(inside: Tensor) -> Tensor:
    """Derivative 6 u (1 - u) of `ease`."""
    return 6 * inside * (1 - inside)


class _Encode(torch.autograd.Function):
    """What `encode` computes.

    Points are the last, contiguous axis of everything, and a feature is a gather or scatter of single numbers: on a CPU
    each of the two makes a pass several times faster than rows of features do. Scattering asks a GPU for nothing.
    """

    @staticmethod
    def forward(
        ctx, points: Tensor, parameters: Tensor, levels: list[Level], features: int, interpolation: Interpolation
    ) -> Tensor:
        table, columns = parameters.view(-1, features), points.T.contiguous()  # (sum of n_l, F), (3, N)
        out = points.new_empty(len(levels) * features, len(points))
        kept = []
        for k, level in enumerate(levels):
            grid, inside = cell(level, columns)  # (3, N) each
            along = inside if interpolation == "linear" else ease(inside)
            index = corner_indices(level, grid)  # (2, 2, 2, N)
            rows = table[level.offset : level.offset + level.entries]
            for f in range(features):
                out[k * features + f] = interpolate(corner_values(rows[:, f], index), along)
            kept += [index, inside]
        ctx.save_for_backward(points, parameters, *kept)
        ctx.levels, ctx.features, ctx.interpolation = levels, features, interpolation
        return out.T

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        points, parameters, *kept = ctx.saved_tensors
        features, table, grad = ctx.features, parameters.view(-1, ctx.features), grad.T.contiguous()
        grad_parameters = torch.empty_like(table) if ctx.needs_input_grad[1] else None
        grad_points = torch.zeros_like(points) if ctx.needs_input_grad[0] else None
        for k, level in enumerate(ctx.levels):
            index, inside = kept[2 * k : 2 * k + 2]
            rows = slice(level.offset, level.offset + level.entries)
            along, steep = inside, level.scale
            if ctx.interpolation == "smoothstep":
                along, steep = ease(inside), level.scale * ease_slope(inside)  # (3, N) each
            if grad_parameters is not None:
                weights, flat = corner_weights(along), index.view(-1)
                for f in range(features):
                    contribution = (weights * grad[k * features + f]).view(-1)
                    grad_parameters[rows, f] = contribution.new_zeros(level.entries).scatter_add_(0, flat, contribution)
            if grad_points is not None:
                corners = [corner_values(table[rows, f], index) * grad[k * features + f] for f in range(features)]
                grad_points += (steep * slopes(sum(corners), along)).T
        return grad_points, None if grad_parameters is None else grad_parameters.view(-1), None, None, None


def encode(
    points: Tensor, parameters: Tensor, levels: list[Level], features: int, interpolation: Interpolation
) -> Tensor:
    """Features of points, differentiable in the points and the parameters.

    Args:
        points: (N, 3), in [0, 1] inside the cube.
        parameters: One vector, the tables of all levels.
        levels: The L levels.
        features: F.
        interpolation: Inside a cell.

    Returns:
        (N, L F), coarsest level first.
    """
    return _Encode.apply(points, parameters, levels, features, interpolation)
