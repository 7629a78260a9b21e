"""An occupancy grid: which cells of a cube hold anything, so that rays skip the empty ones.

The cube [-bound, bound]^3 has K cells per axis, C = K^3 in all, numbered with z fastest. A cell's value is a running
maximum of the opacity of one step there, which decays whenever the cell is visited.
Source: Mueller et al. 2022, Instant-NGP, appendix C; rule, constants, buffers and random draws are those of
nerfacc 0.5's OccGridEstimator with one level, so that checkpoints of either load into the other.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

DECAY = 0.95  # of a cell's value per visit
WARM_UP = 256  # steps in which every update visits all cells


class OccupancyGrid(nn.Module):
    """Occupancies of a cube's cells. All cells count as occupied until the first update.

    Buffers: `occs` (C,), the cells' values in [0, 1]; `binaries` (1, K, K, K), which are occupied; `aabbs` (1, 6), low
    and high corner of the cube; `resolution` (3,).

    Args:
        bound: Half the cube's side, world units, > 0.
        resolution: Cells per axis, >= 1.
    """

    def __init__(self, bound: float, resolution: int):
        super().__init__()
        self.bound, self.side = bound, resolution
        self.register_buffer("resolution", torch.full((3,), resolution, dtype=torch.int32))
        self.register_buffer("aabbs", torch.tensor([[-bound] * 3 + [bound] * 3], dtype=torch.float32))
        self.register_buffer("occs", torch.zeros(resolution**3))
        self.register_buffer("binaries", torch.ones(1, *[resolution] * 3, dtype=torch.bool))

    @torch.no_grad()
    def update(self, step: int, opacity: Callable[[Tensor], Tensor], threshold: float, seed: int) -> None:
        """Looks at one random point per visited cell and decides anew which cells are occupied.

        Args:
            step: Steps until now; in the first 256 all cells are visited, later a quarter of them at random, and as
                many of the occupied ones.
            opacity: Points (N, 3) in the world to the opacities (N,) of one step there.
            threshold: A cell is occupied above this value, or above the mean of all cells if that is lower.
            seed: Of the random draws.
        """
        generator = torch.Generator(self.occs.device).manual_seed(seed)
        cells = self._visited(step, generator)  # (N,)
        corners = torch.stack([cells // self.side**2, cells // self.side % self.side, cells % self.side], -1)  # (N, 3)
        inside = torch.rand(corners.shape, generator=generator, device=cells.device)
        low, high = self.aabbs[0].split(3)
        points = low + (corners + inside) / self.resolution * (high - low)  # (N, 3)
        self.occs[cells] = torch.maximum(self.occs[cells] * DECAY, opacity(points))
        self.binaries.copy_((self.occs > self.occs.mean().clamp(max=threshold)).view_as(self.binaries))

    def _visited(self, step: int, generator: torch.Generator) -> Tensor:
        """The cells (N,) that an update visits; some may be in it twice."""
        count, device = len(self.occs), self.occs.device
        if step < WARM_UP:
            return torch.arange(count, device=device)
        some = count // 4
        anywhere = torch.randint(count, (some,), generator=generator, device=device)
        occupied = self.binaries.flatten().nonzero()[:, 0]
        if some < len(occupied):
            occupied = occupied[torch.randint(len(occupied), (some,), generator=generator, device=device)]
        return torch.cat([anywhere, occupied])

    def occupied(self, points: Tensor) -> Tensor:
        """Which points lie in occupied cells.

        Args:
            points: (N, 3), world units; those outside the cube count as in the nearest cell.

        Returns:
            Mask (N,).
        """
        cells = ((points / (2 * self.bound) + 0.5) * self.side).long().clamp(0, self.side - 1)  # (N, 3)
        return self.binaries[0][cells.unbind(1)]
