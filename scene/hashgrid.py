"""Multiresolution hash encoding with tiny-cuda-nn's parameter layout, in plain torch with a hand-written backward.

Shapes: N points, L levels, F features per level. The parameter tensor is the concatenation over levels of (n_l, F)
tables, feature fastest, so that a checkpoint goes from one backend to the other.
Source: Mueller et al. 2022, Instant-NGP; layout and arithmetic as documented by tiny-cuda-nn's GridEncoding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PRIMES = (1, 2654435761, 805459861)
MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Level:
    """Scale s_l, vertices per axis r_l, table length n_l, the table's offset in entries, and whether it is hashed."""

    scale: float
    resolution: int
    entries: int
    offset: int
    hashed: bool


def levels(count: int, log2_hashmap_size: int, base_resolution: int, per_level_scale: float) -> list[Level]:
    """The levels' sizes, in float32 as tiny-cuda-nn computes them."""
    made: list[Level] = []
    offset = 0
    for level in range(count):
        exponent = np.float32(level) * np.log2(np.float32(per_level_scale))
        scale = np.float32(np.exp2(exponent) * np.float32(base_resolution) - np.float32(1))
        resolution = int(np.ceil(scale)) + 1
        dense = -(-(resolution**3) // 8) * 8
        entries = min(dense, 1 << log2_hashmap_size)
        made.append(Level(float(scale), resolution, entries, offset, resolution**3 > entries))
        offset += entries
    return made


def corner_indices(level: Level, grid: Tensor) -> Tensor:
    """Table indices (N, 8) of the corners of cells `grid` (N, 3), int64; bit d of a corner moves it along axis d."""
    corner = torch.arange(8, device=grid.device)
    moves = torch.stack([corner >> d & 1 for d in range(3)], -1)  # (8, 3)
    x, y, z = (grid[:, None] + moves).bitwise_and(MASK).unbind(-1)
    if level.hashed:
        index = x ^ (y * PRIMES[1] & MASK) ^ (z * PRIMES[2] & MASK)
    else:
        index = (x + y * level.resolution + z * level.resolution**2) & MASK
    # Dense levels wrap too: the shift by half a cell lets a corner lie one vertex beyond the last.
    return index % level.entries


def cell(level: Level, points: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (N, 3), int64, and the position (N, 3) in [0, 1) inside them of points (N, 3)."""
    # The product is rounded once, as in a fused multiply-add.
    position = (points.double() * level.scale + 0.5).to(points.dtype)
    grid = position.floor()
    return grid.long(), position - grid


def corner_weights(inside: Tensor) -> Tensor:
    """Trilinear weights (N, 8) of the corners for positions (N, 3) inside the cell."""
    x, y, z = (torch.stack([1 - inside[:, d], inside[:, d]], 1) for d in range(3))
    return (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).reshape(-1, 8)


class _Encode(torch.autograd.Function):
    """Features (N, L F) of points (N, 3); the scatter of the backward is one bincount a feature and level."""

    @staticmethod
    def forward(ctx, points: Tensor, parameters: Tensor, made: list[Level], features: int) -> Tensor:
        table = parameters.view(-1, features)
        out, kept = [], []
        for level in made:
            grid, inside = cell(level, points)
            index = corner_indices(level, grid) + level.offset
            values = table.index_select(0, index.reshape(-1)).view(len(points), 8, features)
            weights = corner_weights(inside)
            out.append(torch.bmm(weights[:, None], values)[:, 0])
            kept += [index, inside]
        ctx.save_for_backward(points, parameters, *kept)
        ctx.levels, ctx.features = made, features
        return torch.cat(out, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        points, parameters, *kept = ctx.saved_tensors
        features, table = ctx.features, parameters.view(-1, ctx.features)
        grad_parameters = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        grad_points = torch.zeros_like(points) if ctx.needs_input_grad[0] else None
        for k, level in enumerate(ctx.levels):
            index, inside = kept[2 * k : 2 * k + 2]
            part = grad[:, k * features : (k + 1) * features]
            if grad_parameters is not None:
                flat = index.reshape(-1) - level.offset
                weights = corner_weights(inside)
                rows = slice(level.offset, level.offset + level.entries)
                for f in range(features):
                    share = (weights * part[:, f : f + 1]).reshape(-1)
                    grad_parameters[rows, f] = torch.bincount(flat, share, level.entries).to(table.dtype)
            if grad_points is not None:
                values = table.index_select(0, index.reshape(-1)).view(len(points), 8, features)
                along = torch.bmm(values, part[:, :, None])[:, :, 0].view(-1, 2, 2, 2)  # (N, z, y, x)
                x, y, z = (torch.stack([1 - inside[:, d], inside[:, d]], 1) for d in range(3))
                difference = torch.stack(
                    [
                        torch.einsum("nzy,nz,ny->n", along[..., 1] - along[..., 0], z, y),
                        torch.einsum("nzx,nz,nx->n", along[:, :, 1] - along[:, :, 0], z, x),
                        torch.einsum("nyx,ny,nx->n", along[:, 1] - along[:, 0], y, x),
                    ],
                    1,
                )
                grad_points += level.scale * difference
        return grad_points, None if grad_parameters is None else grad_parameters.view(-1), None, None


class HashGrid(nn.Module):
    """Encodes points (N, 3) in [0, 1] as features (N, L F); points outside are encoded too, nothing is clamped.

    levels: L; features: F; log2_hashmap_size: of the largest table; base_resolution, per_level_scale: of the levels'
    grids. The default is ProlificDreamer's grid, 12,599,920 parameters. `params` is one float32 vector, initially
    uniform on [-1e-4, 1e-4].
    """

    def __init__(
        self,
        levels_count: int = 16,
        features: int = 2,
        log2_hashmap_size: int = 19,
        base_resolution: int = 16,
        per_level_scale: float = 1.447269237440378,
    ):
        super().__init__()
        self.levels = levels(levels_count, log2_hashmap_size, base_resolution, per_level_scale)
        self.features = features
        count = features * sum(level.entries for level in self.levels)
        self.params = nn.Parameter(torch.empty(count).uniform_(-1e-4, 1e-4))

    @property
    def width(self) -> int:
        """Length L F of a point's features."""
        return len(self.levels) * self.features

    def forward(self, points: Tensor) -> Tensor:
        return _Encode.apply(points, self.params, self.levels, self.features)
