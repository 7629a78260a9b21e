"""Sets of pictures that are judged: N objects, each seen in V views, and the true instances they are held against.

Every set has plain backgrounds, which need not be the same: a run's renders are over white, a prior's samples over what
the prior has drawn. Measures hold a set against the truth over the set's own backgrounds.
Shapes: N objects, V views, S pixels of a side. RGB in [0, 1].
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from common.cache import cache_folder, cached
from evaluation.truth_distance import TRUTH_SEED
from scene.cameras import Orbit, turntable
from toybox.prior.metrics import VISIBLE, background_of
from toybox.world.builder import PARTS_KEY
from toybox.world.captions import VIEWS
from toybox.world.objects import build, stack
from toybox.world.render import render
from toybox.world.renders import VERSION, CameraRanges

SIZE = 64  # pixels of a side, those of the toybox
INSTANCES = 32  # true instances that stand for the truth
OTHERS = 16  # further ones, the reference row
OTHER_ANGLES = ("elevation", "distance", "fovy")  # of a camera, beside its azimuth


@dataclass(frozen=True)
class Pictures:
    """A set of pictures.

    Args:
        rgb: (N, V, 3, S, S).
        mask: (N, V, S, S) bool, the pixels of the object.
        background: (N, V, 3).
    """

    rgb: Tensor
    mask: Tensor
    background: Tensor

    def __len__(self) -> int:
        """N, the number of objects."""
        return len(self.rgb)

    def __getitem__(self, index: slice | Tensor) -> "Pictures":
        """Some of the objects."""
        return Pictures(self.rgb[index], self.mask[index], self.background[index])

    def network_images(self) -> Tensor:
        """The pictures as the judges take them.

        Returns:
            (N V, 3, S, S) in [-1, 1].
        """
        return 2 * self.rgb.flatten(0, 1) - 1

    def over_white(self) -> Tensor:
        """The objects cut out along their masks, over white.

        Returns:
            (N, V, 3, S, S).
        """
        return torch.where(self.mask[:, :, None], self.rgb, 1.0)


def with_found_masks(rgb: Tensor) -> Pictures:
    """A set of pictures whose plain backgrounds and masks are found by their colours.

    Args:
        rgb: (N, V, 3, S, S).

    Returns:
        The set; a mask is the largest connected region unlike the background, with its holes.
    """
    background = background_of(2 * rgb.flatten(0, 1) - 1).unflatten(0, rgb.shape[:2])
    unlike = (rgb - background[..., None, None]).abs().amax(2) > VISIBLE
    masks = [_largest_region(mask) for mask in unlike.flatten(0, 1).numpy()]
    return Pictures(rgb, torch.from_numpy(np.stack(masks)).view(unlike.shape), background)


def _largest_region(mask: np.ndarray) -> np.ndarray:
    """The largest connected region of a mask (S, S), its holes filled."""
    regions, count = ndimage.label(mask)
    if count == 0:
        return mask
    return ndimage.binary_fill_holes(regions == 1 + np.bincount(regions.ravel())[1:].argmax())


@dataclass(frozen=True)
class Truth:
    """True instances.

    Args:
        rgba: (N, V, 4, S, S), rgb premultiplied by alpha.
        parts: (N, V, S, S), part indices (see `toybox.world.builder.PARTS`).
        cameras: The V cameras.
    """

    rgba: Tensor
    parts: Tensor
    cameras: Orbit

    def over(self, background: Tensor) -> Pictures:
        """The instances over plain backgrounds.

        Args:
            background: (M, V, 3), given to the instances in turn.

        Returns:
            The set.
        """
        count = len(self.rgba)
        background = background.repeat(-(-count // len(background)), 1, 1)[:count]
        alpha = self.rgba[:, :, 3:]
        rgb = self.rgba[:, :, :3] + (1 - alpha) * background[..., None, None]
        return Pictures(rgb, alpha[:, :, 0] > 0.5, background)


def white(count: int, views: int) -> Tensor:
    """White backgrounds (count, views, 3)."""
    return torch.ones(count, views, 3)


def look_cameras(views: int, distance: float, fovy: float) -> Orbit:
    """The cameras of a look, the front first (see `evaluation.truth_distance.cameras`).

    Args:
        views: V.
        distance: World units.
        fovy: Degrees.

    Returns:
        V cameras.
    """
    return turntable(views, elevation=15.0, distance=distance, fovy=fovy)


@cache
def true_instances(
    name: str, colour: str, count: int, first: int, views: int, distance: float, fovy: float, size: int = SIZE
) -> Truth:
    """True instances that no training has seen, from the cache folder or rendered and put there.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        count: N.
        first: The first one's number.
        views: V.
        distance: Of the cameras, world units.
        fovy: Degrees.
        size: Pixels of a side.

    Returns:
        N instances.
    """
    stem = f"{colour}-{name}-{first}-{count}-{views}-{distance:g}-{fovy:g}-{size}px"
    cameras = look_cameras(views, distance, fovy)
    orbits = [cameras] * count
    return Truth(*_cached(stem, name, colour, first, orbits, size), cameras)


@cache
def sector_instances(name: str, colour: str, sector: int, count: int, first: int, size: int = SIZE) -> Truth:
    """True instances seen by random cameras of one azimuth sector, as the prior draws them for its words.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        sector: Index into the sectors of `toybox.world.captions.VIEWS`.
        count: N.
        first: The first one's number.
        size: Pixels of a side.

    Returns:
        N instances in one view; its camera is that of the sector's middle.
    """
    rng = np.random.default_rng([first, sector])
    drawn = CameraRanges(high=0.0).sample(count, rng)
    span = VIEWS.sectors[sector]
    azimuth = torch.tensor(rng.uniform(span.start, span.stop, count), dtype=torch.float32)
    orbits = [Orbit(azimuth[i : i + 1], *(getattr(drawn, k)[i : i + 1] for k in OTHER_ANGLES)) for i in range(count)]
    stem = f"{colour}-{name}-{first}-{count}-sector{sector}-{size}px"
    middle = Orbit(*(torch.tensor([v]) for v in ((span.start + span.stop) / 2, 15.0, 2.3, 40.0)))
    return Truth(*_cached(stem, name, colour, first, orbits, size), middle)


def captioned_instances(name: str, colour: str, cameras: Orbit, count: int, first: int, size: int = SIZE) -> Truth:
    """True instances seen by random cameras that share the view words of some cameras, as a prior draws them.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        cameras: V cameras, none from overhead.
        count: N.
        first: The first one's number.
        size: Pixels of a side.

    Returns:
        N instances in V views.
    """
    sectors = VIEWS.index(cameras.azimuth, cameras.elevation).tolist()
    views = [sector_instances(name, colour, sector, count, first, size) for sector in sectors]
    return Truth(torch.cat([view.rgba for view in views], 1), torch.cat([view.parts for view in views], 1), cameras)


def _cached(stem: str, name: str, colour: str, first: int, orbits: list[Orbit], size: int) -> tuple[Tensor, Tensor]:
    """The rgba and parts of instances first, first + 1, ..., each seen by its cameras; from the cache or rendered."""
    path = cache_folder() / f"instances-v{VERSION}-{PARTS_KEY}" / f"{stem.replace(' ', '-')}.safetensors"

    def make() -> dict[str, Tensor]:
        renders = [
            render(stack([build(name, colour, TRUTH_SEED + first + i)] * len(orbit)), orbit, size)
            for i, orbit in enumerate(orbits)
        ]
        rgba = torch.stack([torch.cat([m.rgb, m.alpha], -1).permute(0, 3, 1, 2) for m in renders])
        parts = torch.stack([m.parts for m in renders]).byte()
        return {"rgba": (255 * rgba.clamp(0, 1)).round().byte(), "parts": parts}

    tensors = cached(path, make)
    return tensors["rgba"].float() / 255, tensors["parts"].long()
