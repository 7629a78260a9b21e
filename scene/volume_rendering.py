"""Volume rendering with nerfacc: an occupancy grid, samples along rays, compositing.

R rays, S lattice intervals a ray, N samples in occupied space. The lattice follows nerfacc's marching rule: edges at
(shift +) k step from the ray's origin, an interval counts if its midpoint lies in the box and in an occupied cell. It
is a mask over all R x S midpoints, which runs on any device and is the reference; on CUDA nerfacc's kernels walk to the
same samples and composite them, where they can be compiled.
"""

import functools
from dataclasses import dataclass

import nerfacc
import torch
from torch import Tensor, nn

from scene.radiance_field import RadianceField


@dataclass
class VolumeRender:
    """Per ray: colour without background, opacity, expected distance (both weighted by opacity), and the samples."""

    rgb: Tensor  # (R, 3)
    opacity: Tensor  # (R, 1)
    depth: Tensor  # (R, 1)
    normal: Tensor | None  # (R, 3), world, weighted by opacity
    weights: Tensor  # (N,) of the samples
    ray: Tensor  # (N,) which ray a sample is on


@functools.cache
def missing_kernels() -> str:
    """Why nerfacc's CUDA kernels cannot be used, empty where they can; the first call compiles them, for minutes."""
    try:
        from nerfacc.cuda._backend import _C
    except (ImportError, OSError, RuntimeError) as error:  # all three come from torch's compilation of extensions
        lines = str(error).splitlines() or [""]
        line = next((line for line in lines if "error:" in line), lines[0])  # the compiler's first, of hundreds
        return f"{type(error).__name__}: {line.strip()[:300]}"
    return "" if _C else "nerfacc finds no nvcc"


def backend(device: torch.device) -> str:
    """The name of the code that marches and composites on a device; on CUDA without nerfacc's kernels also why."""
    if device.type != "cuda":
        return "torch lattice"
    why = missing_kernels()
    return f"torch lattice ({why})" if why else "nerfacc"


def enter_box(origins: Tensor, directions: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Distances (R,) at which rays enter and leave the cube [-bound, bound]^3; enter >= leave for a miss."""
    inverse = 1 / torch.where(directions.abs() < 1e-12, 1e-12, directions)
    one, two = (-bound - origins) * inverse, (bound - origins) * inverse
    return torch.minimum(one, two).amax(-1).clamp(min=0), torch.maximum(one, two).amin(-1)


class VolumeRenderer(nn.Module):
    """Renders a field inside a cube and keeps its occupancy grid.

    bound: half the cube's side; resolution: cells per axis of the occupancy grid; samples: lattice intervals along the
    cube's diagonal; max_samples: of a whole call, beyond which the lattice gets coarser (fog costs detail, not memory);
    threshold: a cell counts as occupied above this opacity of one step.
    """

    def __init__(
        self,
        bound: float = 1.0,
        resolution: int = 32,
        samples: int = 64,
        max_samples: int = 2**20,
        threshold: float = 0.01,
    ):
        super().__init__()
        self.bound, self.samples, self.max_samples, self.threshold = bound, samples, max_samples, threshold
        self.step = 2 * bound * 3**0.5 / samples
        self.occupancy = nerfacc.OccGridEstimator([-bound] * 3 + [bound] * 3, resolution)
        # Everything is occupied until the first update says otherwise.
        self.occupancy.binaries.fill_(True)

    @torch.no_grad()
    def update(self, step: int, field: RadianceField, seed: int = 0, every: int = 16) -> None:
        """Refreshes the occupancy grid from the field every so many steps of its own; call it once a step.

        The points at which cells are looked at are a function of (seed, step).
        """
        if step % every:
            return
        device = self.occupancy.occs.device
        self.occupancy.train()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed * 1_000_003 + step)  # nerfacc draws from the global generator
            self.occupancy.update_every_n_steps(
                step,
                lambda points: (1 - torch.exp(-field.density(points) * self.step))[:, None],
                occ_thre=self.threshold,
                n=every,
            )

    @torch.no_grad()
    def march(self, origins: Tensor, directions: Tensor, jitter: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
        """Rays (N,) and interval starts (N,) of the samples in occupied space, in ray order, and the step.

        origins, directions: (R, 3); jitter: (R,) in [0, 1), shifts each ray's lattice by a part of the step.
        """
        step = self.step
        pick = self._walk if origins.is_cuda and not missing_kernels() else self._lattice
        while True:
            ray, start = pick(origins, directions, jitter, step)
            if len(ray) <= self.max_samples:
                return ray, start, step
            step *= 1.25 * max(1.0, len(ray) / self.max_samples)

    def _lattice(
        self, origins: Tensor, directions: Tensor, jitter: Tensor | None, step: float
    ) -> tuple[Tensor, Tensor]:
        enter, leave = enter_box(origins, directions, self.bound)
        shift = torch.zeros_like(enter) if jitter is None else jitter * step
        first = ((enter - shift) / step).floor().clamp(min=0)
        count = int(2 * self.bound * 3**0.5 / step) + 3
        start = shift[:, None] + (first[:, None] + torch.arange(count, device=enter.device)) * step  # (R, S)
        middle = start + step / 2
        inside = (middle >= enter[:, None]) & (middle < leave[:, None])
        ray, k = inside.nonzero(as_tuple=True)
        points = origins[ray] + middle[ray, k, None] * directions[ray]
        kept = self.occupied(points)
        return ray[kept], start[ray[kept], k[kept]]

    def _walk(self, origins: Tensor, directions: Tensor, jitter: Tensor | None, step: float) -> tuple[Tensor, Tensor]:
        """As _lattice, by nerfacc's kernel; they may differ for midpoints within rounding of a cell's face."""
        enter, _ = enter_box(origins, directions, self.bound)
        shift = torch.zeros_like(enter) if jitter is None else jitter * step
        first = ((enter - shift) / step).floor().clamp(min=0)
        # The kernel's lattice begins at a ray's near plane; `stratified` would draw jitter of its own.
        ray, start, _ = self.occupancy.sampling(origins, directions, t_min=shift + first * step, render_step_size=step)
        # It adds up steps in float32, which drifts from the lattice.
        k = ((start - shift[ray]) / step).round()
        return ray, shift[ray] + k * step

    def occupied(self, points: Tensor) -> Tensor:
        """Mask (N,) of points in occupied cells."""
        resolution = self.occupancy.resolution.tolist()
        cells = ((points / (2 * self.bound) + 0.5) * self.occupancy.resolution).long()
        x, y, z = (cells[:, d].clamp(0, resolution[d] - 1) for d in range(3))
        return self.occupancy.binaries[0, x, y, z]

    def forward(
        self,
        field: RadianceField,
        origins: Tensor,
        directions: Tensor,
        jitter: Tensor | None = None,
        normals: bool = False,
    ) -> VolumeRender:
        """Renders rays (R, 3). normals: also the field's normals, for pictures."""
        count = len(origins)
        ray, start, step = self.march(origins, directions, jitter)
        middle = start + step / 2
        points = origins[ray] + middle[:, None] * directions[ray]
        density, albedo = field(points)
        weights = composite(density, ray, step, count)
        columns = [weights[:, None] * albedo, weights[:, None], (weights * middle)[:, None]]
        if normals:
            columns.append(weights[:, None] * field.normals(points))
        values = torch.cat(columns, 1)
        out = values.new_zeros(count, values.shape[1]).index_add(0, ray, values)
        return VolumeRender(out[:, :3], out[:, 3:4], out[:, 4:5], out[:, 5:] if normals else None, weights, ray)


def composite(density: Tensor, ray: Tensor, step: float, rays: int) -> Tensor:
    """Weights (N,) of samples in ray order: T_i (1 - exp(-sigma_i step)), T_i the transmittance before sample i.

    Source: Max 1995, as in NeRF; nerfacc's packed function with its kernels, else the dense one on rays padded to the
    longest.
    """
    if len(ray) == 0:
        return density
    if density.is_cuda and not missing_kernels():
        zero = torch.zeros_like(density)  # only the length of an interval counts
        weights, _, _ = nerfacc.render_weight_from_density(zero, zero + step, density, ray_indices=ray, n_rays=rays)
        return weights
    counts = torch.bincount(ray, minlength=rays)
    position = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts)[ray]
    longest = int(counts.max())
    flat = ray * longest + position
    padded = density.new_zeros(rays * longest).index_put((flat,), density).view(rays, longest)
    edges = torch.arange(longest, device=ray.device, dtype=density.dtype).expand(rays, -1) * step
    weights, _, _ = nerfacc.render_weight_from_density(edges, edges + step, padded)
    return weights.reshape(-1)[flat]
