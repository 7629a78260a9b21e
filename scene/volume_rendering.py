"""Volume rendering of a field inside a cube: samples in occupied space, compositing, expected colour and distance.

R rays, N samples. Marching and compositing are torch's on any device (`scene.marching`, `scene.compositing`), which is
the reference, and nerfacc's kernels on CUDA where they can be compiled (`scene.nerfacc_kernels`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scene import compositing, marching, nerfacc_kernels
from scene.nerfacc_kernels import missing_kernels
from scene.occupancy import OccupancyGrid
from scene.radiance_field import RadianceField


@dataclass
class VolumeRender:
    """What rays see, and the samples that were taken for it.

    Args:
        rgb: (R, 3), colour without background, weighted with the opacity.
        opacity: (R, 1), in [0, 1].
        depth: (R, 1), expected distance, world units, weighted with the opacity.
        normal: (R, 3), world axes, weighted with the opacity; None if it was not asked for.
        weights: (N,) of the samples.
        ray: (N,) long, the ray of each sample.
        distance: (N,), of the samples from their ray's origin, world units.
    """

    rgb: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None
    weights: Tensor
    ray: Tensor
    distance: Tensor


def backend(device: torch.device) -> str:
    """The name of the code that marches and composites on a device; on CUDA without nerfacc's kernels also why."""
    if device.type != "cuda":
        return "torch lattice"
    why = missing_kernels()
    return f"torch lattice ({why})" if why else "nerfacc"


class VolumeRenderer(nn.Module):
    """Renders a field inside a cube and keeps its occupancy grid.

    Args:
        bound: Half the cube's side, world units, > 0.
        resolution: Cells per axis of the occupancy grid.
        samples: Lattice intervals along the cube's diagonal.
        max_samples: Most samples of a whole call, beyond which the lattice gets coarser: fog costs detail, not memory.
        threshold: A cell counts as occupied above this opacity of one step.
        chunk: Rays that are rendered at once; their backward computes the field's activations anew, chunk by chunk, so
            that memory holds those of one chunk. None for all rays at once, without recomputation.
    """

    def __init__(
        self,
        bound: float = 1.0,
        resolution: int = 32,
        samples: int = 64,
        max_samples: int = 2**20,
        threshold: float = 0.01,
        chunk: int | None = None,
    ):
        super().__init__()
        self.chunk = chunk
        self.bound, self.samples, self.max_samples, self.threshold = bound, samples, max_samples, threshold
        self.step = 2 * bound * 3**0.5 / samples
        self.occupancy = OccupancyGrid(bound, resolution)

    @torch.no_grad()
    def update(self, step: int, field: RadianceField, seed: int = 0, every: int = 16) -> None:
        """Refreshes the occupancy grid from the field; call it once per step.

        Args:
            step: Steps of this renderer's field until now.
            field: What is rendered.
            seed: The points at which cells are looked at are a function of (seed, step).
            every: Steps between two refreshes.
        """
        if step % every:
            return

        def opacity(points: Tensor) -> Tensor:
            return 1 - torch.exp(-field.density(points) * self.step)

        self.occupancy.update(step, opacity, self.threshold, seed * 1_000_003 + step)

    @torch.no_grad()
    def march(self, origins: Tensor, directions: Tensor, jitter: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
        """The samples of rays in occupied space.

        Args:
            origins: (R, 3), world units.
            directions: (R, 3), unit length.
            jitter: (R,) in [0, 1), shifts each ray's lattice by a part of the step.

        Returns:
            Rays (N,) and interval starts (N,), ray by ray from near to far, and the step, a distance.
        """
        parts, step = self._march(origins, directions, jitter)
        rays = [ray + k * self._rays_at_once(len(origins)) for k, (ray, _) in enumerate(parts)]
        return torch.cat(rays), torch.cat([start for _, start in parts]), step

    def _rays_at_once(self, count: int) -> int:
        return self.chunk or max(count, 1)

    def _march(
        self, origins: Tensor, directions: Tensor, jitter: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor]], float]:
        """The samples of every chunk, with the rays' numbers in it, and the step."""
        step, size = self.step, self._rays_at_once(len(origins))
        backend = nerfacc_kernels if origins.is_cuda and not missing_kernels() else marching
        rays = origins.split(size), directions.split(size)
        shifts = [None] * len(rays[0]) if jitter is None else jitter.split(size)
        while True:
            parts = [backend.march(*given, step, self.occupancy) for given in zip(*rays, shifts, strict=True)]
            count = sum(len(ray) for ray, _ in parts)
            if count <= self.max_samples:
                return parts, step
            step *= 1.25 * max(1.0, count / self.max_samples)

    def forward(
        self,
        field: RadianceField,
        origins: Tensor,
        directions: Tensor,
        jitter: Tensor | None = None,
        normals: bool = False,
        noise: Callable[[int], Tensor] | None = None,
    ) -> VolumeRender:
        """Renders rays.

        Args:
            field: Gives density and albedo at points.
            origins: (R, 3), world units.
            directions: (R, 3), unit length.
            jitter: (R,) in [0, 1), shifts each ray's lattice by a part of the step.
            normals: Render the field's normals too, for pictures.
            noise: Draws what is added to the densities (N,) of all samples before their activation, once, so that what
                is computed anew has the same; None for nothing.

        Returns:
            The render, differentiable in the field's parameters.
        """
        size = self._rays_at_once(len(origins))
        parts, step = self._march(origins, directions, jitter)
        counts = [len(ray) for ray, _ in parts]
        noises = [None] * len(parts) if noise is None else noise(sum(counts)).split(counts)
        values, weights, rays, distances = [], [], [], []
        for k, ((ray, start), some) in enumerate(zip(parts, noises, strict=True)):
            chunk, middle = slice(k * size, (k + 1) * size), start + step / 2
            given = field, origins[chunk], directions[chunk], ray, middle, step, normals, some
            if len(parts) > 1 and torch.is_grad_enabled():
                # Nothing is drawn inside, so that there is no state of random numbers to keep.
                seen = checkpoint(_see, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                seen = _see(*given)
            values.append(seen[0])
            weights.append(seen[1])
            rays.append(ray + k * size)
            distances.append(middle)
        out = torch.cat(values)  # (R, 5 or 8)
        normal = out[:, 5:] if normals else None
        return VolumeRender(
            out[:, :3], out[:, 3:4], out[:, 4:5], normal, torch.cat(weights), torch.cat(rays), torch.cat(distances)
        )


def _see(
    field: RadianceField,
    origins: Tensor,
    directions: Tensor,
    ray: Tensor,
    middle: Tensor,
    step: float,
    normals: bool,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Colour, opacity, depth and perhaps normal of R rays, (R, 5 or 8), and the weights of their samples (N,)."""
    points = origins[ray] + middle[:, None] * directions[ray]  # (N, 3)
    density, albedo = field(points) if noise is None else field(points, noise)  # (N,), (N, 3)
    backend = nerfacc_kernels if density.is_cuda and not missing_kernels() else compositing
    weights = backend.composite(density, ray, step, len(origins))  # (N,)
    columns = [weights[:, None] * albedo, weights[:, None], (weights * middle)[:, None]]
    if normals:
        columns.append(weights[:, None] * field.normals(points))
    values = torch.cat(columns, 1)  # (N, 5 or 8)
    return values.new_zeros(len(origins), values.shape[1]).index_add(0, ray, values), weights
