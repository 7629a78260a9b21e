"""Which face of a mesh a pixel or a ray sees first: one protocol, by warp and by brute force.

V vertices, F faces, R rays, B square images of `size` pixels. Cameras as in `scene.cameras`. A pixel sees what the ray
through its centre hits first, from the front or from the back. Distances are along the ray, in world units.
Nothing here is differentiable: gradients come from `scene.rasterizer` and `scene.silhouettes`.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Protocol

import torch
import warp
from torch import Tensor

from scene.cameras import pixel_rays

FAR = 1e8


class Visibility(Protocol):
    """What of one fixed mesh is seen; built once per mesh and given to all that look at it.

    Implemented by RayCaster (warp, the default), BruteForceCaster (torch, the reference) and
    `scene.rasterizer_nvdiffrast.NvdiffrastVisibility` (optional, CUDA).

    Attributes:
        backend: The name of the code that runs, with its device.
    """

    backend: str

    def visible_faces(self, camera_to_world: Tensor, fovy: Tensor, size: int) -> Tensor:
        """The faces that the centres of all pixels see.

        Args:
            camera_to_world: (B, 4, 4), on the mesh's device.
            fovy: (B,) vertical field of view, degrees.
            size: Pixels per side of the images.

        Returns:
            Face indices (B, size, size), long, -1 for nothing.
        """
        ...

    def first_hits(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The first hits of any rays; silhouettes ask for what lies beyond an edge.

        Args:
            origins: (R, 3), on the mesh's device.
            directions: (R, 3), unit length.

        Returns:
            Face indices (R,), long, -1 for none, and distances (R,), inf for none.
        """
        ...


@warp.kernel(enable_backward=False)
def _cast(
    mesh: warp.uint64,
    origins: warp.array(dtype=warp.vec3),
    directions: warp.array(dtype=warp.vec3),
    far: float,
    face: warp.array(dtype=warp.int32),
    distance: warp.array(dtype=float),
):
    ray = warp.tid()
    hit = warp.mesh_query_ray(mesh, origins[ray], directions[ray], far)
    if hit.result:
        face[ray] = hit.face
        distance[ray] = hit.t


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Drops what native code writes to the process's stderr."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


@cache
def _start_warp() -> None:
    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)
    # Without a driver warp says so on stderr, which torch has found out already.
    with contextlib.nullcontext() if torch.cuda.is_available() else _muted():
        warp.init()


@contextlib.contextmanager
def _named_cache() -> Iterator[None]:
    """Has an error of the disk name the folder in which warp keeps what it compiles."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or warp.config.kernel_cache_dir) from error


class RayCaster:
    """Visibility by warp's ray queries, in float32 on the vertices' device, CPU or CUDA.

    The hierarchy holds a copy of the mesh. Building it costs about a query of one 256 x 256 image.

    Args:
        vertices: (V, 3), finite, world units.
        faces: (F, 3); F may be 0.

    Raises:
        ValueError: A vertex is not finite, for which warp's hierarchy is undefined.
    """

    def __init__(self, vertices: Tensor, faces: Tensor):
        _start_warp()
        self.device = vertices.device
        self.backend = f"warp {warp.__version__} ({self.device.type})"
        self._mesh = None
        if len(faces) == 0:
            return
        if not torch.isfinite(vertices).all():
            raise ValueError("the mesh has vertices that are not finite; a loss or a learning rate is too large")
        with self._stream():
            self._mesh = warp.Mesh(
                points=warp.from_torch(vertices.detach().float().contiguous().clone(), dtype=warp.vec3),
                indices=warp.from_torch(faces.int().flatten().contiguous()),
            )

    def _stream(self) -> contextlib.AbstractContextManager:
        """Puts warp's work into torch's current CUDA stream."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return warp.ScopedStream(warp.stream_from_torch(torch.cuda.current_stream(self.device)))

    def visible_faces(self, camera_to_world: Tensor, fovy: Tensor, size: int) -> Tensor:
        """See Visibility."""
        return self.first_hits(*pixel_rays(camera_to_world, fovy, size))[0].view(-1, size, size)

    @torch.no_grad()
    def first_hits(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See Visibility; the distances are float32."""
        face = torch.full((len(origins),), -1, dtype=torch.int32, device=self.device)
        distance = torch.full((len(origins),), torch.inf, device=self.device)
        if self._mesh is not None and len(origins):
            with self._stream(), _named_cache():
                vectors = [v.detach().float().contiguous() for v in (origins, directions)]
                warp.launch(
                    _cast,
                    dim=len(origins),
                    inputs=[self._mesh.id, *(warp.from_torch(v, dtype=warp.vec3) for v in vectors), FAR],
                    outputs=[warp.from_torch(face), warp.from_torch(distance)],
                    device=warp.device_from_torch(self.device),
                )
        return face.long(), distance


class BruteForceCaster:
    """Visibility by the test of every ray with every face, in torch; the reference for the others.

    Args:
        vertices: (V, 3), world units; their dtype is that of the computation.
        faces: (F, 3); F may be 0.
        chunk: Pairs of a ray and a face that are tested at once.
    """

    backend = "brute force"

    def __init__(self, vertices: Tensor, faces: Tensor, chunk: int = 2**22):
        self.triangles, self.chunk = vertices.detach()[faces], chunk

    def visible_faces(self, camera_to_world: Tensor, fovy: Tensor, size: int) -> Tensor:
        """See Visibility."""
        return self.first_hits(*pixel_rays(camera_to_world, fovy, size))[0].view(-1, size, size)

    @torch.no_grad()
    def first_hits(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See Visibility."""
        if len(self.triangles) == 0:
            return torch.full((len(origins),), -1), torch.full((len(origins),), torch.inf)
        faces, distances = [], []
        rows = max(1, self.chunk // len(self.triangles))
        for o, d in zip(origins.split(rows), directions.split(rows), strict=True):
            barycentric, t = intersect(self.triangles[None], o[:, None], d[:, None])  # (rows, F, 3), (rows, F)
            t = torch.where((barycentric >= 0).all(-1) & (t > 0), t, torch.inf)
            nearest, face = t.min(1)
            faces.append(torch.where(nearest < torch.inf, face, -1))
            distances.append(nearest)
        return torch.cat(faces), torch.cat(distances)


def intersect(triangles: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where lines meet the planes of triangles; differentiable. A line in a plane gives huge numbers, not NaN.

    Args:
        triangles: (..., 3, 3), vertices by coordinates.
        origins: (..., 3).
        directions: (..., 3).

    Returns:
        Barycentric weights (..., 3), negative beyond an edge, and distances (...) in units of the directions' length.

    Source: Moeller and Trumbore 1997.
    """
    a, b, c = triangles.unbind(-2)
    ab, ac, ao = b - a, c - a, origins - a
    p, q = torch.linalg.cross(directions, ac), torch.linalg.cross(ao, ab)
    determinant = (ab * p).sum(-1)
    tiny = torch.finfo(determinant.dtype).tiny ** 0.5
    inverse = 1 / torch.where(determinant.abs() < tiny, tiny, determinant)
    v, w = (ao * p).sum(-1) * inverse, (directions * q).sum(-1) * inverse
    return torch.stack([1 - v - w, v, w], -1), (ac * q).sum(-1) * inverse
