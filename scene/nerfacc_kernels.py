"""Marching and compositing by nerfacc's CUDA kernels, where they can be compiled: faster, and otherwise the same.

nerfacc is optional (`pip install prolific[cuda]`) and imported only here, when a CUDA device asks for it.
"""

import functools

import torch
from torch import Tensor

from scene.marching import enter_cube, first_edges
from scene.occupancy import OccupancyGrid


@functools.cache
def missing_kernels() -> str:
    """Why nerfacc's kernels cannot be used, empty where they can; the first call compiles them, for minutes."""
    try:
        from nerfacc.cuda._backend import _C
    except (ImportError, OSError, RuntimeError) as error:  # the last two come from torch's compilation of extensions
        if isinstance(error, ModuleNotFoundError) and error.name == "nerfacc":
            return "nerfacc is not installed"
        lines = str(error).splitlines() or [""]
        line = next((line for line in lines if "error:" in line), lines[0])  # the compiler's first, of hundreds
        return f"{type(error).__name__}: {line.strip()[:300]}"
    return "" if _C else "nerfacc finds no nvcc"


def march(
    origins: Tensor, directions: Tensor, jitter: Tensor | None, step: float, grid: OccupancyGrid
) -> tuple[Tensor, Tensor]:
    """As `scene.marching.march`; the two may differ for midpoints within rounding of a cell's face."""
    import nerfacc

    enter, _ = enter_cube(origins, directions, grid.bound)
    shift, first = first_edges(enter, jitter, step)
    intervals, samples, _ = nerfacc.traverse_grids(
        origins,
        directions,
        grid.binaries,
        grid.aabbs,
        near_planes=shift + first * step,  # the kernel's lattice begins there
        far_planes=torch.full_like(enter, 1e10),
        step_size=step,
    )
    ray, start = samples.ray_indices, intervals.vals[intervals.is_left]  # (N,)
    # The kernel adds up steps in float32, which drifts from the lattice.
    k = ((start - shift[ray]) / step).round()
    return ray, shift[ray] + k * step


def composite(density: Tensor, ray: Tensor, step: float, rays: int) -> Tensor:
    """As `scene.compositing.composite`, up to rounding."""
    import nerfacc

    if len(ray) == 0:
        return density
    zero = torch.zeros_like(density)  # only the length of an interval counts
    weights, _, _ = nerfacc.render_weight_from_density(zero, zero + step, density, ray_indices=ray, n_rays=rays)
    return weights
