"""View words: which words a camera's prompt gets.

Angles are degrees. Azimuth 0 is the front and grows counter-clockwise seen from above, so that 90 shows the object's
left side; elevation is measured from the horizontal plane.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from common.errors import InputError


@dataclass(frozen=True)
class Sector:
    """The azimuths [start, stop) that are called `words`; start may be negative, the width is in (0, 360]."""

    words: str
    start: float
    stop: float


@dataclass(frozen=True)
class ViewSectors:
    """A partition of the views into sectors with words: azimuth sectors, and "overhead" above an elevation.

    sectors: cover every azimuth once; overhead_above: elevations > this are `overhead`, 90 switches it off.
    InputError when the sectors leave a gap or overlap.
    """

    sectors: tuple[Sector, ...]
    overhead: str = "overhead view"
    overhead_above: float = 60.0

    def __post_init__(self):
        ends = sorted((s.start % 360.0, s.stop - s.start) for s in self.sectors)
        for (start, width), (following, _) in zip(ends, ends[1:] + [(ends[0][0] + 360.0, 0.0)], strict=True):
            if width <= 0 or abs(start + width - following) > 1e-6:
                raise InputError(
                    f"views.sectors: the sector that starts at {start:g} is {width:g} degrees wide but the next one "
                    f"starts at {following % 360:g}; sectors must cover 360 degrees once"
                )

    @property
    def words(self) -> tuple[str, ...]:
        """The words of all sectors, overhead last."""
        return (*(s.words for s in self.sectors), self.overhead)

    def index(self, azimuth: Tensor, elevation: Tensor) -> Tensor:
        """Indices (B,) into `words` for azimuths and elevations (B,), on their device."""
        start, width = _edges(tuple(self.sectors), azimuth.device)
        offset = (azimuth.double()[:, None] - start) % 360.0
        sector = (offset < width).to(torch.uint8).argmax(1)
        return torch.where(elevation > self.overhead_above, len(self.sectors), sector)

    def negatives(self, azimuth: Tensor, elevation: Tensor) -> tuple[Tensor, Tensor]:
        """What Perp-Neg leads away from: indices (2, B) of the front and the nearest side, and weights (2, B) <= 0.

        Weights are a exp(-b r) + c of the position r between two of front, side and back; overhead they are 0.
        Source: Armandpour et al. 2023, Perp-Neg; its curves as in threestudio's settings.
        """
        turned = (azimuth + 180.0) % 360.0 - 180.0  # in [-180, 180)
        level = torch.zeros_like(turned)
        front = self.index(level, level)
        side = self.index(torch.where(turned < 0, -90.0, 90.0).to(turned), level)
        to_side, to_back = 1 - turned.abs() / 90, 2 - turned.abs() / 90  # 1 at the front, 0 at the side; 1, 0 behind it
        weights = torch.where(
            to_side > 0,
            torch.stack([_decay(to_side, 4.0, -2.426), _decay(1 - to_side, 4.0, -2.426)]),
            torch.stack([_decay(to_back, 1.0, 0.967), _decay(to_back, 1.0, -0.606)]),
        )
        return torch.stack([front, side]), torch.where(elevation > self.overhead_above, 0.0, weights)


@lru_cache
def _edges(sectors: tuple[Sector, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Starts and widths of sectors, kept on the device: training asks for them every step."""
    edges = torch.tensor([(s.start, s.stop - s.start) for s in sectors], dtype=torch.float64, device=device)
    return edges[:, 0], edges[:, 1]


def _decay(r: Tensor, a: float, c: float) -> Tensor:
    return -(a * torch.exp(-0.5 * r) + c)


def eight_sectors() -> ViewSectors:
    """Eight sectors of 45 degrees centred on the multiples of 45, left and right told apart."""
    words = ("front", "front left", "left side", "back left", "back", "back right", "right side", "front right")
    return ViewSectors(tuple(Sector(f"{w} view", 45 * i - 22.5, 45 * i + 22.5) for i, w in enumerate(words)))
