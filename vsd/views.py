"""View words: which words a camera's prompt gets.

Angles are degrees. Azimuth 0 is the front and grows counter-clockwise seen from above, so that 90 shows the object's
left side; elevation is measured from the horizontal plane.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from common.errors import InputError


@dataclass
class View:
    """From where B renders were seen.

    Args:
        cameras: Camera-to-world matrices (B, 4, 4); zeros are no camera.
        azimuth: (B,), degrees.
        elevation: (B,), degrees.
    """

    cameras: Tensor
    azimuth: Tensor
    elevation: Tensor


@dataclass(frozen=True)
class Sector:
    """The azimuths [start, stop) that have the same words.

    Args:
        words: Appended to the prompt.
        start: Degrees; may be negative.
        stop: Degrees, at most start + 360.
    """

    words: str
    start: float
    stop: float


@dataclass(frozen=True)
class ViewSectors:
    """A partition of the views into sectors with words.

    Args:
        sectors: Of the azimuth; they cover every azimuth once.
        overhead: Words of the views from above.
        overhead_above: Degrees; elevations above it are `overhead`, 90 switches that off.

    Raises:
        InputError: The sectors leave a gap or overlap.
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

    def _poles(self, azimuth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Azimuths (B,) turned into [-180, 180), and the sectors (B,) of the front, the nearest side and the back."""
        turned = (azimuth + 180.0) % 360.0 - 180.0
        level = torch.zeros_like(turned)
        side = self.index(torch.where(turned < 0, -90.0, 90.0).to(turned), level)
        return turned, self.index(level, level), side, self.index(level + 180.0, level)

    def between(self, azimuth: Tensor, elevation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where a view lies between two of front, side and back, for Perp-Neg.

        Args:
            azimuth: (B,), degrees.
            elevation: (B,), degrees.

        Returns:
            Indices (B,) of the two views, the one nearer to the front first, and the weight (B,) in [0, 1] of the
            second. Overhead both are that view.

        Source: Armandpour et al. 2023, Perp-Neg, section 4.2; as in its code.
        """
        turned, front, side, back = self._poles(azimuth)
        position = turned.abs() / 90.0
        overhead = self.index(azimuth, elevation)
        above = elevation > self.overhead_above
        first = torch.where(position < 1, front, side)
        second = torch.where(position < 1, side, back)
        return (
            torch.where(above, overhead, first),
            torch.where(above, overhead, second),
            position - (position >= 1).to(position),
        )

    def negatives(self, azimuth: Tensor, elevation: Tensor) -> tuple[Tensor, Tensor]:
        """What Perp-Neg leads away from.

        Args:
            azimuth: (B,), degrees.
            elevation: (B,), degrees.

        Returns:
            Indices (2, B) of the front and the nearest side, and weights (2, B) <= 0: a exp(-b r) + c of the position
            r between two of front, side and back. Overhead the weights are 0.

        Source: Armandpour et al. 2023, Perp-Neg; its curves as in threestudio's settings.
        """
        turned, front, side, _ = self._poles(azimuth)
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
