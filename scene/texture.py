"""Texture atlases: unwrapping a mesh into charts, and baking a colour field into the atlas' image.

V vertices, F faces, W >= V corners of the unwrapped mesh (a vertex on a seam has one in each chart), S texels a side.
uv: u to the right, v up, (0, 0) the image's lower left corner, as in OBJ; glTF's v points down, which the export turns.
Texels: row 0 on top; the centre of texel (i, j) lies at u = (j + 0.5) / S, v = 1 - (i + 0.5) / S.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xatlas
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from scene.mesh import MeshError

REACH = math.sqrt(2.0)  # texels: a bilinear lookup inside a chart reads no texel that is farther from it
PACKINGS = 12  # tries; three are usual
CHUNK = 2**18  # points of one call of a field, and pairs of a texel and a face that are compared at once


@dataclass(frozen=True)
class Atlas:
    """An unwrapped mesh: `faces` turn as the mesh's own and are in the same order, source[faces] are its faces.

    Args:
        uv: (W, 2) in [0, 1], of the corners.
        faces: (F, 3) long, indices into uv.
        source: (W,) long, the mesh's vertex of each corner.
        size: S, texels per side of the image.
    """

    uv: Tensor
    faces: Tensor
    source: Tensor
    size: int


def unwrap(vertices: Tensor, faces: Tensor, size: int = 1024, padding: int = 6) -> Atlas:
    """Cuts a mesh into charts without overlap that fill a square image, by xatlas.

    All charts have the same scale. Faces without area get uv without area.

    Args:
        vertices: (V, 3), world units.
        faces: (F, 3), long.
        size: S, texels per side.
        padding: Texels between charts, in [2, size / 2), also over the image's border when the texture repeats; mip
            level k > 0 is free of seams if 3 * 2^k <= padding.

    Returns:
        The atlas.

    Raises:
        MeshError: The mesh has no face with an area, or is not finite, or its charts are too many for the image.
        ValueError: The padding is out of range.
    """
    if len(faces) == 0:
        raise MeshError("the mesh has no faces; there is nothing to texture or export")
    if not bool(torch.isfinite(vertices).all()):
        raise MeshError("the mesh has vertices that are not finite; a loss or a learning rate is too large")
    if not 2 <= padding < size / 2:
        raise ValueError(f"padding is {padding} texels; it must be at least 2 and less than half the size, {size}")
    positions = vertices.detach().double().cpu().numpy()
    indices = faces.cpu().numpy()
    edges = positions[indices] - positions[np.roll(indices, 1, 1)]  # (F, 3, 3)
    # xatlas drops faces by an absolute area; in units of the mean edge only those without area are so small.
    unit = np.linalg.norm(edges, axis=-1).mean()
    charts = xatlas.Atlas()
    charts.add_mesh((positions / max(unit, 1e-30)).astype(np.float32), indices.astype(np.uint32))
    charts.generate()
    if charts.chart_count == 0:
        raise MeshError("the mesh has no face with an area; there is nothing to texture or export")
    source, corners, uv = charts[0]
    flat = uv * np.array([charts.width, charts.height]) / charts.texels_per_unit
    kept, corners, texels = _pack(flat.astype(np.float32), corners, size - padding, padding)
    if texels is None:
        raise MeshError(f"{charts.chart_count} charts do not fit a texture of size {size}; use a larger one")

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array.astype(np.int64), device=faces.device)

    uv = torch.as_tensor((texels + padding / 2) / size, dtype=torch.float32, device=vertices.device)
    return Atlas(uv, tensor(corners), tensor(source[kept]), size)


def _pack(
    flat: np.ndarray, corners: np.ndarray, side: int, padding: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Places flat charts at the largest scale that fits a square.

    Args:
        flat: (W, 2), the corners in each chart's plane.
        corners: (F, 3), the faces.
        side: Of the square, texels.
        padding: Texels between charts.

    Returns:
        The order (W,) of the new corners, the faces (F, 3) between them, and texels (W, 2), None where none fits.
    """
    a, b, c = (flat[corners[:, k]] for k in range(3))  # (F, 2) each
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum() / 2
    options = xatlas.PackOptions()
    options.padding = padding
    options.texels_per_unit = side * math.sqrt(0.6 / area)
    best, best_scale = (np.arange(len(flat)), corners, None), 0.0
    for _ in range(PACKINGS):
        atlas = xatlas.Atlas()
        atlas.add_uv_mesh(flat, corners)
        atlas.generate(pack_options=options)
        used = max(atlas.width, atlas.height)
        if used <= side and options.texels_per_unit > best_scale:
            kept, faces, uv = atlas[0]
            best_scale = options.texels_per_unit
            best = kept, faces, uv * np.array([atlas.width, atlas.height])
        if 0.95 * side <= used <= side:
            break
        options.texels_per_unit *= 0.98 * side / used
    return best


def bake(vertices: Tensor, atlas: Atlas, colour: Callable[[Tensor], Tensor]) -> Tensor:
    """The image of a colour field on the surface.

    Each texel has the field's value at the surface point under its centre; around a chart, as far as bilinear lookups
    reach, at the chart's nearest point; all others copy the nearest texel, so that mip levels mix like with like.

    Args:
        vertices: (V, 3) of the unwrapped mesh, world units.
        atlas: Of the mesh.
        colour: Points (N, 3) to rgb (N, 3) in [0, 1]; called without gradients.

    Returns:
        (S, S, 3), float32 in [0, 1], row 0 on top.
    """
    face, weights = surface_of_texels(atlas)  # (S, S), (S, S, 3)
    covered = face >= 0
    corners = vertices.detach()[atlas.source[atlas.faces]]  # (F, 3, 3)
    image = torch.zeros(atlas.size, atlas.size, 3, device=vertices.device)
    with torch.no_grad():
        points = (weights[covered].to(vertices.dtype)[..., None] * corners[face[covered]]).sum(1)  # (N, 3)
        image[covered] = torch.cat([colour(part).float() for part in points.split(CHUNK)])
    row, column = distance_transform_edt(~covered.cpu().numpy(), return_distances=False, return_indices=True)
    return image[torch.as_tensor(row, device=image.device).long(), torch.as_tensor(column, device=image.device).long()]


def surface_of_texels(atlas: Atlas) -> tuple[Tensor, Tensor]:
    """The face that each texel shows, and where on it.

    Args:
        atlas: S texels per side.

    Returns:
        The face (S, S), long, nearest to each texel's centre, -1 beyond REACH; of faces that are equally near the first
        one. And barycentric weights (S, S, 3), float64, of the centre, or of the face's nearest point if the centre is
        outside of it.
    """
    size = atlas.size
    corners = in_texels(atlas)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for face, where in texels_near(corners, size, REACH):
        distance, _ = nearest(corners[face], where.double())
        near = distance <= REACH
        found.append(((where[:, 1] * size + where[:, 0])[near], distance[near], face[near]))
    texel, distance, face = (torch.cat(part) for part in zip(*found, strict=True))
    least = torch.full((size * size,), math.inf, dtype=torch.float64, device=face.device)
    least.scatter_reduce_(0, texel, distance, "amin")
    wins = distance == least[texel]
    owner = torch.full((size * size,), len(corners), device=face.device)
    owner.scatter_reduce_(0, texel[wins], face[wins], "amin")
    owner[owner == len(corners)] = -1
    weights = torch.zeros(size * size, 3, dtype=torch.float64, device=face.device)
    covered = (owner >= 0).nonzero()[:, 0]
    for part in covered.split(CHUNK):
        weights[part] = nearest(corners[owner[part]], torch.stack([part % size, part // size], -1).double())[1]
    return owner.view(size, size), weights.view(size, size, 3)


def in_texels(atlas: Atlas) -> Tensor:
    """The corners of the faces in the image, (F, 3, 2) as (column, row), float64; texels' centres are integers."""
    scale = torch.tensor([atlas.size, -atlas.size], dtype=torch.float64, device=atlas.uv.device)
    offset = torch.tensor([-0.5, atlas.size - 0.5], dtype=torch.float64, device=atlas.uv.device)
    return (atlas.uv.double() * scale + offset)[atlas.faces]


def texels_near(corners: Tensor, size: int, reach: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of a face with an area and a texel near it, CHUNK at once.

    Args:
        corners: (F, 3, 2), see `in_texels`.
        size: S, texels per side.
        reach: Texels around a face's bounding box.

    Yields:
        Faces (K,), ascending, and texels (K, 2) as (column, row), long.
    """
    low = (corners.amin(1) - reach).ceil().long().clamp(0, size - 1)
    high = (corners.amax(1) + reach).floor().long().clamp(0, size - 1)
    width, height = (high - low + 1).unbind(-1)  # (F,) each
    ends = torch.cumsum(width * height * _has_area(corners), 0)  # of each face's run of pairs
    total = int(ends[-1])
    for start in range(0, total, CHUNK):
        k = torch.arange(start, min(start + CHUNK, total), device=ends.device)
        face = torch.searchsorted(ends, k, right=True)
        k = k - torch.where(face > 0, ends[face - 1], 0)
        yield face, low[face] + torch.stack([k % width[face], k // width[face]], -1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross products (...) of plane vectors (..., 2)."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _has_area(corners: Tensor) -> Tensor:
    """Which faces (F, 3, 2) are wide enough to divide by, in texels."""
    return _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).abs() > 1e-9


def nearest(corners: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (N,) of points (N, 2) to triangles (N, 3, 2), zero inside, and barycentric weights (N, 3) there."""
    following = corners.roll(-1, 1)
    along, to_point = following - corners, points[:, None] - corners  # (N, 3, 2), by edge
    sides = _cross(along, to_point)  # (N, 3): twice the areas between the point and each edge
    weights = (sides / sides.sum(1, keepdim=True)).roll(-1, 1)  # the edge is opposite to the vertex before it
    inside = (weights >= 0).all(1)
    t = ((to_point * along).sum(-1) / (along * along).sum(-1)).clamp(0, 1)
    squared, edge = (to_point - t[..., None] * along).square().sum(-1).min(1)  # (N,) each
    t = t.gather(1, edge[:, None])  # (N, 1)
    on_edge = torch.zeros_like(weights).scatter(1, edge[:, None], 1 - t).scatter(1, (edge[:, None] + 1) % 3, t)
    distance = torch.where(inside, 0.0, squared.sqrt())
    return distance, torch.where(inside[:, None], weights, on_edge)
