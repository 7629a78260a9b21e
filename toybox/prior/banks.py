"""True instances per prompt and view, which samples are compared with; rendered once and kept in the cache folder."""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cache import cache_folder, cached
from common.pixels import to_uint8
from scene.cameras import Orbit
from toybox.world.captions import VIEWS
from toybox.world.objects import build, stack
from toybox.world.render import render
from toybox.world.renders import VERSION, CameraRanges

BANK_SEED = 900_000_000  # instances that neither training nor validation has seen
ALONE = 2000  # renders for which starting processes does not pay
KEY = "rgba"

Prompt = tuple[str, str, int]  # object, colour, azimuth sector


def truth_bank(name: str, colour: str, sector: int, count: int, first: int = 0) -> Tensor:
    """Renders of true instances from random cameras of an azimuth sector.

    Args:
        name: Of the object.
        colour: Of its main parts.
        sector: Index of the sector, in 0 ... 7.
        count: N.
        first: Number of the first instance.

    Returns:
        (N, 4, S, S) uint8: rgb, premultiplied, and alpha.
    """
    rng = np.random.default_rng([first, sector])
    cameras = CameraRanges(high=0.0).sample(count, rng)
    span = VIEWS.sectors[sector]
    azimuth = torch.tensor(rng.uniform(span.start, span.stop, count), dtype=torch.float32)
    cameras = Orbit(azimuth, cameras.elevation, cameras.distance, cameras.fovy)
    drawn = render(stack([build(name, colour, BANK_SEED + first + i) for i in range(count)]), cameras)
    return to_uint8(torch.cat([drawn.rgb, drawn.alpha], -1)).permute(0, 3, 1, 2)


def load_banks(prompts: list[Prompt], count: int, cache: str | Path | None = None) -> Tensor:
    """The banks of K prompts, from the cache, or rendered and put there.

    Args:
        prompts: K of them.
        count: N, renders per prompt.
        cache: A folder (default: VSD_CACHE or ~/.cache/vsd).

    Returns:
        (K, N, 4, S, S) uint8: rgb, premultiplied, and alpha.
    """
    digest = hashlib.sha256(repr((VERSION, BANK_SEED, prompts, count)).encode()).hexdigest()[:16]
    path = Path(cache or cache_folder()) / f"toybox-banks-{digest}.safetensors"
    return cached(path, lambda: {KEY: _render_banks(prompts, count)})[KEY]


def _render_banks(prompts: list[Prompt], count: int) -> Tensor:
    jobs = [(*prompt, count) for prompt in prompts]
    workers = min(os.cpu_count() or 1, len(prompts) * count // ALONE)
    if workers < 2:
        banks = [truth_bank(*job) for job in jobs]
    else:
        # One thread each; this process keeps its own number.
        context, start = get_context("spawn"), torch.set_num_threads
        with ProcessPoolExecutor(workers, mp_context=context, initializer=start, initargs=(1,)) as pool:
            banks = list(pool.map(truth_bank, *zip(*jobs, strict=True), chunksize=8))
    return torch.stack(banks)
