"""Rasterisation by ray queries: which face a pixel sees comes from warp, everything differentiable from torch.

B images of H x W pixels (square, H = W = size), V vertices, F faces, R rays. Cameras as in `scene.cameras`; a pixel
sees what the ray through its centre hits first, front or back. Depths are distances along that ray, world units.
Gradients here are those of the inside of the visible faces; `scene.silhouettes` adds those of their outlines.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
import warp
from torch import Tensor

from scene.cameras import pixel_rays

FAR = 1e8


@dataclass
class Fragments:
    """What the pixels' centres see; zero where that is nothing."""

    face: Tensor  # (B, H, W) long, -1 for nothing
    barycentric: Tensor  # (B, H, W, 3), weights of the face's vertices, differentiable in the vertices
    depth: Tensor  # (B, H, W), differentiable in the vertices

    @property
    def mask(self) -> Tensor:
        """1.0 where a face is seen, (B, H, W, 1); coverage after antialiasing."""
        return (self.face >= 0)[..., None].to(self.depth)


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


class RayCaster:
    """First hits of rays with a mesh that stays as it is; building it costs about a query of one 256 x 256 image.

    vertices: (V, 3), finite; faces: (F, 3), F may be 0. Runs in float32 on the vertices' device, CPU or CUDA.
    """

    def __init__(self, vertices: Tensor, faces: Tensor):
        _start_warp()
        self.device = vertices.device
        self.backend = f"warp {warp.__version__} ({self.device.type})"
        self._mesh = None
        if len(faces) == 0:
            return
        # warp's hierarchy is undefined for coordinates that are no numbers.
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

    @torch.no_grad()
    def __call__(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Faces (R,), -1 for none, and distances (R,), inf for none. origins, directions: (R, 3), unit length."""
        face = torch.full((len(origins),), -1, dtype=torch.int32, device=self.device)
        distance = torch.full((len(origins),), torch.inf, device=self.device)
        if self._mesh is not None and len(origins):
            with self._stream():
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
    """The reference for RayCaster: Moeller and Trumbore's test of every ray with every face, in torch."""

    backend = "brute force"

    def __init__(self, vertices: Tensor, faces: Tensor, chunk: int = 2**22):
        self.triangles, self.chunk = vertices.detach()[faces], chunk

    @torch.no_grad()
    def __call__(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """As RayCaster's."""
        if len(self.triangles) == 0:
            return torch.full((len(origins),), -1), torch.full((len(origins),), torch.inf)
        faces, distances = [], []
        rows = max(1, self.chunk // len(self.triangles))
        for o, d in zip(origins.split(rows), directions.split(rows), strict=True):
            barycentric, t = intersect(self.triangles[None], o[:, None], d[:, None])
            t = torch.where((barycentric >= 0).all(-1) & (t > 0), t, torch.inf)
            nearest, face = t.min(1)
            faces.append(torch.where(nearest < torch.inf, face, -1))
            distances.append(nearest)
        return torch.cat(faces), torch.cat(distances)


def intersect(triangles: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentric weights (..., 3) and distances (...) at which lines meet the planes of triangles (..., 3, 3).

    Weights are negative beyond an edge. A line in a plane gives huge numbers, not NaN.
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


def rasterize(
    vertices: Tensor,  # (V, 3)
    faces: Tensor,  # (F, 3)
    camera_to_world: Tensor,  # (B, 4, 4)
    fovy: Tensor,  # (B,) degrees
    size: int,
    caster: RayCaster | BruteForceCaster | None = None,
) -> Fragments:
    """The fragments of B images of size x size pixels; empty ones if nothing is seen.

    caster: of the same vertices and faces, to build it only once; a new RayCaster by default.
    """
    origins, directions = pixel_rays(camera_to_world.to(vertices), fovy.to(vertices), size)
    face, _ = (caster or RayCaster(vertices, faces))(origins, directions)
    return visible_fragments(face.view(-1, size, size), vertices, faces, origins, directions)


def visible_fragments(face: Tensor, vertices: Tensor, faces: Tensor, origins: Tensor, directions: Tensor) -> Fragments:
    """Fragments for visible faces (B, H, W) that are known already; origins, directions: (B H W, 3)."""
    hit = (face.flatten() >= 0).nonzero()[:, 0]
    seen = faces.index_select(0, face.flatten()[hit])
    triangles = vertices.index_select(0, seen.flatten()).view(-1, 3, 3)
    weights, distance = intersect(triangles, origins[hit], directions[hit])
    barycentric = vertices.new_zeros(face.numel(), 3).index_copy(0, hit, weights)
    depth = vertices.new_zeros(face.numel()).index_copy(0, hit, distance)
    return Fragments(face, barycentric.view(*face.shape, 3), depth.view(face.shape))


def interpolate(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Images (B, H, W, C) of vertex attributes (V, C), zero where nothing is seen.

    Differentiable in the attributes and, through the barycentric weights, in the vertices.
    """
    hit = (fragments.face.flatten() >= 0).nonzero()[:, 0]
    seen = faces.index_select(0, fragments.face.flatten()[hit])
    corners = attributes.index_select(0, seen.flatten()).view(-1, 3, attributes.shape[1])
    values = torch.einsum("nk,nkc->nc", fragments.barycentric.view(-1, 3).index_select(0, hit), corners)
    image = values.new_zeros(fragments.face.numel(), attributes.shape[1]).index_copy(0, hit, values)
    return image.view(*fragments.face.shape, -1)


def project(points: Tensor, camera_to_world: Tensor, fovy: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (N, 2), (row, column), and depths (N,) along the viewing axis of points (N, 3).

    camera_to_world: (N, 4, 4) and fovy: (N,), a camera for each point; points must lie in front of it (depth > 0).
    """
    local = torch.einsum("nd,ndc->nc", points - camera_to_world[:, :3, 3], camera_to_world[:, :3, :3])
    depth = -local[:, 2]
    focal = 0.5 * size / torch.tan(torch.deg2rad(fovy) / 2)
    scale = (focal / depth)[:, None]
    return size / 2 + scale * torch.stack([-local[:, 1], local[:, 0]], -1), depth
