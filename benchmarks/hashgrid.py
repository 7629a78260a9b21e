"""What the hash grid's hand-written pass is worth: python -m benchmarks.hashgrid [--points 131072] [--threads 2].

Times forward, and forward with backward, of scene.hashgrid against the same formula as autograd differentiates it, and
against the formulation of nerfstudio's torch fallback: corners by ceil and floor, every level hashed, eight gathers and
seven interpolations over all levels at once. DenseGrid, which a CPU may prefer, is timed beside them.
All take turns, so that ratios hold on a busy machine. Exits with 1 unless forward and backward together are at least
twice as fast as either formulation's.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved, row
from scene.hash_encoding import MASK, PRIMES
from scene.hashgrid import HashGrid
from scene.radiance_field import DenseGrid

GOAL = 2.0


class PlainHashGrid(HashGrid):
    """The same numbers, written down plainly and left to autograd."""

    def forward(self, points: Tensor) -> Tensor:
        """Features (N, L F) of points (N, 3)."""
        table = self.params.view(-1, self.features)
        corner = torch.arange(8, device=points.device)
        moves = torch.stack([corner >> d & 1 for d in range(3)], -1)  # (8, 3)
        parts = []
        for level in self.levels:
            position = (points.double() * level.scale + 0.5).to(points.dtype)
            cell = position.floor()
            inside = (position - cell)[:, None]
            x, y, z = (cell.long()[:, None] + moves).bitwise_and(MASK).unbind(-1)  # (N, 8) each
            if level.hashed:
                index = x ^ (y * PRIMES[1] & MASK) ^ (z * PRIMES[2] & MASK)
            else:
                index = (x + y * level.resolution + z * level.resolution**2) & MASK
            values = table[index % level.entries + level.offset]  # (N, 8, F)
            weights = torch.where(moves.bool(), inside, 1 - inside).prod(-1, keepdim=True)
            parts.append((weights * values).sum(1))
        return torch.cat(parts, 1)


class AllLevelsAtOnce(nn.Module):
    """Nerfstudio's formulation, from its description: hashed tables of equal size.

    Args:
        levels: L.
        features: F, per level.
        log2_size: Base-2 logarithm of a table's length.
        base: Scale of the coarsest level.
        growth: Factor between the scales of two levels.
    """

    def __init__(self, levels: int, features: int = 2, log2_size: int = 19, base: int = 16, growth: float = 1.4473):
        super().__init__()
        self.size, self.width = 2**log2_size, levels * features
        self.table = nn.Parameter(torch.empty(levels * self.size, features).uniform_(-1e-3, 1e-3))
        self.register_buffer("scales", torch.floor(base * growth ** torch.arange(levels)))
        self.register_buffer("starts", torch.arange(levels) * self.size)

    def lookup(self, corner: Tensor) -> Tensor:
        """Entries (N, L, F) of corners (N, L, 3)."""
        x, y, z = (corner * torch.tensor(PRIMES, device=corner.device)).unbind(-1)
        return self.table[((x ^ y ^ z) % self.size) + self.starts]

    def forward(self, points: Tensor) -> Tensor:
        """Features (N, L F) of points (N, 3)."""
        scaled = points[:, None] * self.scales[:, None]  # (N, L, 3)
        low, high = scaled.floor().long(), scaled.ceil().long()
        x, y, z = (scaled - scaled.floor())[..., None].unbind(-2)
        # eight of (N, L, F)
        corners = [self.lookup(torch.where(torch.tensor(c, device=points.device), high, low)) for c in CORNERS]
        for inside in (x, y, z):
            corners = [a * (1 - inside) + b * inside for a, b in zip(corners[::2], corners[1::2], strict=True)]
        return corners[0].flatten(1)


# x changes fastest, so that neighbours in the list differ along the axis that is interpolated next
CORNERS = [[bool(k & 1), bool(k & 2), bool(k & 4)] for k in range(8)]


def jobs(encoding: nn.Module, points: Tensor) -> list[Callable[[], None]]:
    """Two jobs: the forward pass of an encoding at points (N, 3), and the same with backward to the parameters."""
    weights = torch.randn(len(points), encoding.width, device=points.device)

    def forward() -> None:
        with torch.no_grad():
            encoding(points)

    def both() -> None:
        encoding.zero_grad()
        (encoding(points) * weights).sum().backward()

    return [forward, both]


def compare(levels: int, options: argparse.Namespace) -> bool:
    """Prints the table for one number of levels.

    Args:
        levels: L.
        options: Of the command line.

    Returns:
        Whether the goal is met.
    """
    points = torch.rand(options.points, 3, device=options.device)
    encodings = {
        "hash grid": HashGrid(levels),
        "same, plain autograd": PlainHashGrid(levels),
        "all levels at once": AllLevelsAtOnce(levels),
        "dense grid": DenseGrid(),
    }
    work = [job for e in encodings.values() for job in jobs(e.to(options.device), points)]
    times = interleaved(work, options.repeats, options.device)
    print(f"{options.points} points, {levels} levels of 2 features, float32 on {options.device}, medians (quartiles)")
    for k, name in enumerate(encodings):
        row(f"{name}, forward", times[2 * k])
        row(f"{name}, and backward", times[2 * k + 1])
    met = True
    for k, name in list(enumerate(encodings))[1:]:
        for part, label in ((0, "forward"), (1, "and backward")):
            ratio = [theirs / ours for theirs, ours in zip(times[2 * k + part], times[part], strict=True)]
            middle = row(f"{name} over hash grid, {label}", ratio, "", 1.0)
            if name != "dense grid" and part == 1 and middle < GOAL:
                print(f"  {'goal':<40}{'>=':>7} {GOAL}   MISSED")
                met = False
    return met


def main(args: list[str] | None = None) -> None:
    """Prints a table for each number of levels; exits with 1 if a goal is missed.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=131_072, help="of a batch (default: %(default)s)")
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 16], help="of the grids (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="repetitions, at least 2 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options = parser.parse_args(args)
    if options.points < 1 or options.repeats < 2:
        parser.error("--points must be at least 1 and --repeats at least 2")
    torch.set_num_threads(options.threads)
    met = [compare(levels, options) for levels in options.levels]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
