"""View words: which words a camera's prompt gets.

Angles are degrees. Azimuth 0 is the front and grows counter-clockwise seen from above, so that 90 shows the object's
left side; elevation is measured from the horizontal plane.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vsd.errors import InputError


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
        """Indices (B,) into `words` for azimuths and elevations (B,)."""
        start = torch.tensor([s.start for s in self.sectors], dtype=torch.float64)
        width = torch.tensor([s.stop - s.start for s in self.sectors], dtype=torch.float64)
        offset = (azimuth.cpu().double()[:, None] - start) % 360.0
        sector = (offset < width).to(torch.uint8).argmax(1)
        return torch.where(elevation.cpu() > self.overhead_above, len(self.sectors), sector)


def eight_sectors() -> ViewSectors:
    """Eight sectors of 45 degrees centred on the multiples of 45, left and right told apart."""
    words = ("front", "front left", "left side", "back left", "back", "back right", "right side", "front right")
    return ViewSectors(tuple(Sector(f"{w} view", 45 * i - 22.5, 45 * i + 22.5) for i, w in enumerate(words)))
