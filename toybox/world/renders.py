"""The toybox data set: random instances seen by random cameras, rendered once and cached in a file.

A split is made of `count` renders in an order that goes round all objects and colours. Each has its own instance, and
held-out instances are never trained on. Files are safetensors with the settings and VERSION in their header.
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cache import cache_folder, cached
from common.errors import InputError
from scene.cameras import Orbit
from toybox.world.objects import COLOURS, OBJECTS, build, stack
from toybox.world.render import render

VERSION = 1
HELD_OUT = 10_000_000  # the first seed of held-out instances
CHUNK = 960  # renders per work item


@dataclass(frozen=True)
class CameraRanges:
    """Uniform ranges of random cameras.

    Args:
        distance: From the origin, world units.
        fovy: Vertical field of view, degrees.
        elevation: Of most cameras, degrees.
        high: Fraction in [0, 1] of the cameras whose elevation lies between elevation[1] and highest.
        highest: Largest elevation, degrees.
    """

    distance: tuple[float, float] = (2.1, 2.5)
    fovy: tuple[float, float] = (36.0, 44.0)
    elevation: tuple[float, float] = (-10.0, 45.0)
    high: float = 0.15
    highest: float = 85.0

    def sample(self, count: int, rng: np.random.Generator) -> Orbit:
        """Draws cameras, azimuths uniform over the circle.

        Args:
            count: How many.
            rng: What they are drawn from.

        Returns:
            The cameras.
        """
        low, top = self.elevation
        elevation = rng.uniform(low, top, count)
        elevation = np.where(rng.random(count) < self.high, rng.uniform(top, self.highest, count), elevation)
        columns = (
            rng.uniform(0, 360, count),
            elevation,
            rng.uniform(*self.distance, count),
            rng.uniform(*self.fovy, count),
        )
        return Orbit(*(torch.tensor(c, dtype=torch.float32) for c in columns))


@dataclass
class Renders:
    """Renders with their labels.

    Args:
        rgba: (N, 4, S, S) uint8, rgb premultiplied by alpha.
        name: (N,), index into OBJECTS.
        colour: (N,), index into COLOURS.
        cameras: N cameras.
    """

    rgba: Tensor
    name: Tensor
    colour: Tensor
    cameras: Orbit

    def __len__(self) -> int:
        """N, the number of renders."""
        return self.rgba.shape[0]

    def images(self, index: Tensor, background: Tensor, flip: Tensor | None = None) -> Tensor:
        """Composites renders over plain backgrounds.

        Args:
            index: (B,), which renders.
            background: (B, 3) in [0, 1].
            flip: (B,) bool, mirrors left and right, which for a mirror-symmetric object is the view from -azimuth.

        Returns:
            (B, 3, S, S) in [-1, 1].
        """
        rgba = self.rgba[index].float() / 255
        if flip is not None:
            rgba = torch.where(flip[:, None, None, None], rgba.flip(3), rgba)
        return 2 * (rgba[:, :3] + (1 - rgba[:, 3:]) * background[:, :, None, None]) - 1


def random_backgrounds(count: int, rng: np.random.Generator) -> Tensor:
    """Draws plain colours: 3/10 white, 3/10 grey, 4/10 any colour.

    Args:
        count: How many.
        rng: What they are drawn from.

    Returns:
        (count, 3) in [0, 1].
    """
    kind = rng.random((count, 1))
    grey = np.repeat(rng.random((count, 1)), 3, 1)
    colours = np.where(kind < 0.3, 1.0, np.where(kind < 0.6, grey, rng.random((count, 3))))
    return torch.tensor(colours, dtype=torch.float32)


def load_renders(
    count: int,
    held_out: bool = False,
    seed: int = 0,
    size: int = 64,
    cameras: CameraRanges | None = None,
    cache: str | Path | None = None,
    workers: int | None = None,
) -> Renders:
    """Loads renders of training or held-out instances from the cache, or renders them and puts them there.

    Args:
        count: How many, >= 1.
        held_out: Of the instances that are never trained on.
        seed: Another set of instances and cameras, >= 0.
        size: Pixels of a side.
        cameras: Ranges of the cameras.
        cache: A folder, by default VSD_CACHE or ~/.cache/vsd.
        workers: Processes, by default one per core.

    Returns:
        The renders.

    Raises:
        InputError: The cache file was written by another version or with other settings.
    """
    if count < 1:
        raise InputError(f"count: {count} renders asked for; at least 1 is needed")
    folder = Path(cache or cache_folder())
    cameras = cameras or CameraRanges()
    path = folder / f"toybox-{'heldout' if held_out else 'train'}-{size}px-{count}-seed{seed}.safetensors"
    settings = json.dumps({"version": VERSION, "cameras": asdict(cameras)}, sort_keys=True)
    return _from_tensors(cached(path, lambda: _render(count, held_out, seed, size, cameras, workers), settings))


def _render(
    count: int, held_out: bool, seed: int, size: int, cameras: CameraRanges, workers: int | None
) -> dict[str, Tensor]:
    jobs = [(start, min(CHUNK, count - start), held_out, seed, size, cameras) for start in range(0, count, CHUNK)]
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        parts = [_render_chunk(job) for job in jobs]
    else:
        # One thread each; this process keeps its own number, on which the last bits of later sums depend.
        context, start = get_context("spawn"), torch.set_num_threads
        with ProcessPoolExecutor(workers, mp_context=context, initializer=start, initargs=(1,)) as pool:
            parts = list(pool.map(_render_chunk, jobs))
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _from_tensors(tensors: dict[str, Tensor]) -> Renders:
    return Renders(tensors["rgba"], tensors["name"].long(), tensors["colour"].long(), Orbit(*tensors["cameras"].T))


def _render_chunk(job: tuple[int, int, bool, int, int, CameraRanges]) -> dict[str, Tensor]:
    """Renders start ... start + count - 1 of a split."""
    start, count, held_out, seed, size, ranges = job
    names, colours = list(OBJECTS), list(COLOURS)
    number = np.arange(start, start + count)
    name = number % len(names)
    colour = number // len(names) % len(colours)
    cameras = ranges.sample(count, np.random.default_rng([seed, int(held_out), start]))
    rgba = torch.empty(count, 4, size, size, dtype=torch.uint8)
    first = HELD_OUT if held_out else 0
    for k, word in enumerate(names):
        for rows in np.array_split(np.flatnonzero(name == k), max(1, (name == k).sum() // 16)):
            if not len(rows):
                continue
            solids = stack([build(word, colours[colour[i]], first + 1_000_000 * seed + int(number[i])) for i in rows])
            seen = render(solids, cameras[torch.from_numpy(rows)], size)
            pixels = torch.cat([seen.rgb, seen.alpha], -1).clamp(0, 1).mul(255).round().to(torch.uint8)
            rgba[torch.from_numpy(rows)] = pixels.permute(0, 3, 1, 2)
    return {
        "rgba": rgba,
        "name": torch.from_numpy(name).to(torch.uint8),
        "colour": torch.from_numpy(colour).to(torch.uint8),
        "cameras": torch.stack([cameras.azimuth, cameras.elevation, cameras.distance, cameras.fovy], 1),
    }
