"""The toybox data set: random instances seen by random cameras, rendered once and cached in a file.

A split is made of `count` renders in an order that goes round all objects and colours. Each has its own instance, and
held-out instances are never trained on. Files are safetensors with the settings and VERSION in their header.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.cache import cache_folder
from common.errors import InputError
from common.files import atomic_write
from scene.cameras import Orbit
from toybox.world.builder import BODY, PARTS, PARTS_KEY
from toybox.world.objects import COLOURS, OBJECTS, build, stack, without
from toybox.world.render import render
from toybox.world.shapes import Solids

VERSION = 1
HELD_OUT = 10_000_000  # the first seed of held-out instances
CHUNK = 960  # renders per work item
MISSING = 0.5  # of the named parts of an incomplete instance


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
        InputError: The cache file is truncated or was written by another version or with other settings.
    """
    arguments = (count, held_out, seed, size, cameras, cache, workers)
    return _from_tensors(_load("toybox", _render_chunk, *arguments))


def load_incomplete(
    count: int,
    held_out: bool = False,
    seed: int = 0,
    size: int = 64,
    cameras: CameraRanges | None = None,
    cache: str | Path | None = None,
    workers: int | None = None,
) -> tuple[Renders, Tensor]:
    """Loads renders of instances that lack random parts, with their part maps, from the cache or renders them.

    Whoever learns parts from them cannot guess a part from the rest of the object. Instances and cameras are those of
    `load_renders` for the same arguments; of each instance's named parts, MISSING are left out.

    Args:
        count: How many, >= 1.
        held_out: Of the instances that are never trained on.
        seed: Another set of instances and cameras, >= 0.
        size: Pixels of a side.
        cameras: Ranges of the cameras.
        cache: A folder, by default VSD_CACHE or ~/.cache/vsd.
        workers: Processes, by default one per core.

    Returns:
        The renders, and (N, S, S) uint8, the part index at every pixel's centre (see `toybox.world.builder.PARTS`).

    Raises:
        InputError: The cache file is truncated or was written by another version or with other settings.
    """
    stem = f"toybox-incomplete{MISSING:g}-{PARTS_KEY}"
    tensors = _load(stem, _incomplete_chunk, count, held_out, seed, size, cameras, cache, workers)
    return _from_tensors(tensors), tensors["parts"]


def _load(
    stem: str,
    chunk: Callable[["Job"], dict[str, Tensor]],
    count: int,
    held_out: bool,
    seed: int,
    size: int,
    cameras: CameraRanges | None,
    cache: str | Path | None,
    workers: int | None,
) -> dict[str, Tensor]:
    """The tensors that `chunk` gives for all renders of a split, from the cache file or put there."""
    if count < 1:
        raise InputError(f"count: {count} renders asked for; at least 1 is needed")
    folder = Path(cache or cache_folder())
    cameras = cameras or CameraRanges()
    path = folder / f"{stem}-{'heldout' if held_out else 'train'}-{size}px-{count}-seed{seed}.safetensors"
    settings = json.dumps({"version": VERSION, "cameras": asdict(cameras)}, sort_keys=True)
    if path.exists():
        return _read(path, settings)
    jobs = [(start, min(CHUNK, count - start), held_out, seed, size, cameras) for start in range(0, count, CHUNK)]
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        parts = [chunk(job) for job in jobs]
    else:
        # One thread each; this process keeps its own number, on which the last bits of later sums depend.
        context, start = get_context("spawn"), torch.set_num_threads
        with ProcessPoolExecutor(workers, mp_context=context, initializer=start, initargs=(1,)) as pool:
            parts = list(pool.map(chunk, jobs))
    tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"settings": settings})
    return tensors


def _from_tensors(tensors: dict[str, Tensor]) -> Renders:
    return Renders(tensors["rgba"], tensors["name"].long(), tensors["colour"].long(), Orbit(*tensors["cameras"].T))


def _read(path: Path, settings: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("settings")
            if found != settings:
                raise InputError(
                    f"{path}: made by another version or with other cameras ({found}); delete it to make it anew"
                )
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable cache file ({error}); delete it to make it anew") from error


Job = tuple[int, int, bool, int, int, CameraRanges]  # first render, count, held out, seed, pixels, ranges


def _split(job: Job) -> tuple[Tensor, Tensor, Orbit]:
    """Object and colour (count,), uint8, and cameras of the renders of a job."""
    start, count, held_out, seed, _, ranges = job
    number = torch.arange(start, start + count)
    cameras = ranges.sample(count, np.random.default_rng([seed, int(held_out), start]))
    return (number % len(OBJECTS)).byte(), (number // len(OBJECTS) % len(COLOURS)).byte(), cameras


def _batches(job: Job) -> Iterator[tuple[Tensor, Solids]]:
    """The rows (B,) of a job in batches of one object, and their instances."""
    start, _, held_out, seed, _, _ = job
    names, colours = list(OBJECTS), list(COLOURS)
    first = (HELD_OUT if held_out else 0) + 1_000_000 * seed + start
    name, colour, _ = _split(job)
    for k, word in enumerate(names):
        for rows in np.array_split(np.flatnonzero(name.numpy() == k), max(1, int((name == k).sum()) // 16)):
            if len(rows):
                yield torch.from_numpy(rows), stack([build(word, colours[colour[i]], first + int(i)) for i in rows])


def _render_chunk(job: Job) -> dict[str, Tensor]:
    """The renders of a job."""
    return _rendered(job, complete=True) | _labels(job)


def _incomplete_chunk(job: Job) -> dict[str, Tensor]:
    """The renders of a job without random parts, and their part maps."""
    return _rendered(job, complete=False) | _labels(job)


def _rendered(job: Job, complete: bool) -> dict[str, Tensor]:
    """The pictures of a job; where they are not complete, the part maps too."""
    start, count, held_out, seed, size, _ = job
    _, _, cameras = _split(job)
    rng = np.random.default_rng([seed, int(held_out), start, 1])
    lacking = torch.from_numpy(rng.random((count, len(PARTS))) < MISSING)
    lacking[:, : BODY + 1] = False
    rgba = torch.empty(count, 4, size, size, dtype=torch.uint8)
    parts = torch.empty(count, size, size, dtype=torch.uint8)
    for rows, solids in _batches(job):
        made = render(solids if complete else without(solids, lacking[rows]), cameras[rows], size)
        pixels = torch.cat([made.rgb, made.alpha], -1).clamp(0, 1).mul(255).round().to(torch.uint8)
        rgba[rows], parts[rows] = pixels.permute(0, 3, 1, 2), made.parts.to(torch.uint8)
    return {"rgba": rgba} if complete else {"rgba": rgba, "parts": parts}


def _labels(job: Job) -> dict[str, Tensor]:
    """Objects, colours and cameras of a job."""
    name, colour, cameras = _split(job)
    columns = [cameras.azimuth, cameras.elevation, cameras.distance, cameras.fovy]
    return {"name": name, "colour": colour, "cameras": torch.stack(columns, 1)}
