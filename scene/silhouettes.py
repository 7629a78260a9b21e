"""Antialiasing at silhouettes, analytic, so that images are differentiable in where the outlines are.

A silhouette edge lies between a face that is turned to the camera and one that is not. Where it crosses the line
between two neighbouring pixel centres, the pixel that holds the crossing gets a part of the other's colour: one half
for a crossing at its own centre, falling linearly to none at the border between the two. An edge is crossed by lines
along rows and along columns; their parts are weighted with the squares of the components of its normal, so that each
piece of an outline counts once and the sum over an image has the derivative of the covered area.
Source: Laine et al. 2020, Modular Primitives for High-Performance Differentiable Rendering, section 3.5. There
crossings are searched from the pixels and an edge counts along one axis only; here from the edges, which also finds
those of faces smaller than a pixel, and along both, which makes the derivative ten times less noisy for such faces.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scene.cameras import rays
from scene.mesh import Mesh
from scene.rasterizer import project
from scene.visibility import RayCaster, Visibility

OUTSIDE = 0.01  # pixels beyond an edge at which the next surface is looked up
DEPTH_MARGIN = 1e-4  # fraction of the edge's distance by which that surface must be farther away


@dataclass
class Crossings:
    """P pairs of neighbouring pixels with a visible outline between their centres.

    Args:
        first: (P,) long, flat pixel indices into (B, H, W).
        second: (P,) long, the pixels to the right of first or below it.
        position: (P,) in [0, 1], how far first's surface reaches towards second's centre; differentiable in the
            vertices.
        weight: (P,) in [0, 1], of the pair's axis; taken as constant, since its derivative has mean zero and grows as
            edges shrink.
    """

    first: Tensor
    second: Tensor
    position: Tensor
    weight: Tensor


@dataclass
class _Outline:
    """The silhouette edges of all images, projected; N in number."""

    image: Tensor  # (N,) long
    camera_to_world: Tensor  # (N, 4, 4)
    fovy: Tensor  # (N,) degrees
    points: Tensor  # (N, 4, 2) pixels (row, column), of both ends and of two vertices on the side of the surface
    depth: Tensor  # (N, 4) of those, along the viewing axis, world units


def silhouettes(
    mesh: Mesh,
    camera_to_world: Tensor,
    fovy: Tensor,
    size: int,
    visibility: Visibility | None = None,
) -> Crossings:
    """The crossings in B images.

    Not found are outlines that are no edges, where surfaces cut each other, and what lies between two neighbouring
    centres without covering either.

    Args:
        mesh: What is seen; may be empty.
        camera_to_world: (B, 4, 4).
        fovy: (B,) vertical field of view, degrees.
        size: Pixels per side.
        visibility: Of the same mesh, to build it only once; a new RayCaster by default.

    Returns:
        The crossings, along rows first, then along columns; their positions are differentiable in the vertices.
    """
    outline = _outline(mesh, camera_to_world.to(mesh.vertices), fovy.to(mesh.vertices), size)
    return _crossings(outline, len(fovy), size, visibility or RayCaster(mesh.vertices, mesh.faces))


def antialias(images: Tensor, crossings: Crossings) -> Tensor:
    """Blends the pixels at outlines.

    Args:
        images: (B, H, W, C).
        crossings: Of the same cameras.

    Returns:
        (B, H, W, C), differentiable in the images and in the outlines' positions.
    """
    flat = images.flatten(0, 2)  # (B H W, C)
    one, two = flat.index_select(0, crossings.first), flat.index_select(0, crossings.second)  # (P, C)
    shift = (crossings.weight * (0.5 - crossings.position))[:, None]  # (P, 1), > 0: second's colour enters first
    flat = flat.index_add(0, crossings.first, shift.clamp(min=0) * (two - one))
    return flat.index_add(0, crossings.second, (-shift).clamp(min=0) * (one - two)).view(images.shape)


def _outline(mesh: Mesh, camera_to_world: Tensor, fovy: Tensor, size: int) -> _Outline:
    """Edges between a front and a back face, and those without two faces, in front of the camera."""
    with torch.no_grad():
        vectors, eye = mesh.face_vectors(), camera_to_world[:, :3, 3]  # (F, 3), (B, 3)
        backward = camera_to_world[:, :3, 2]  # (B, 3), away from what the camera looks at
        front = eye @ vectors.T > (vectors * mesh.vertices[mesh.faces[:, 0]]).sum(-1)  # (B, F)
        one, two = mesh.edges.faces.unbind(1)
        image, edge = ((front[:, one] != front[:, two]) | (mesh.edges.count != 2)).nonzero(as_tuple=True)
        vertex = torch.cat([mesh.edges.ends, mesh.edges.opposite], 1)[edge]  # (N', 4)
        in_front = ((mesh.vertices[vertex] - eye[image, None]) * backward[image, None]).sum(-1) < 0  # (N', 4)
        kept = in_front.all(1).nonzero()[:, 0]  # (N,)
        image, vertex = image[kept], vertex[kept]
    points, depth = project(
        mesh.vertices.index_select(0, vertex.flatten()),
        camera_to_world[image].repeat_interleave(4, 0),
        fovy[image].repeat_interleave(4),
        size,
    )
    return _Outline(image, camera_to_world[image], fovy[image], points.view(-1, 4, 2), depth.detach().view(-1, 4))


def _crossings(outline: _Outline, images: int, size: int, visibility: Visibility) -> Crossings:
    """The crossings with lines of pixel centres along rows, and along columns, in `images` images.

    Both are found at once, since the host waits for every number of something: an edge n of N meets rows as n and
    columns as N + n, with its coordinates swapped. Coordinate 0 counts the lines, 1 the pixels on a line.
    """
    points = torch.cat([outline.points, outline.points.flip(-1)])  # (2 N, 4, 2)
    edge, line = _lines(points[:, :2, 0].detach(), size)  # (K,) of the K pairs of an edge and a line
    points = points.index_select(0, edge)  # (K, 4, 2)
    a, b = points[:, :2, 0].unbind(1)  # (K,) across the lines, of both ends
    p, q = points[:, :2, 1].unbind(1)  # (K,) along the lines
    slope = (q - p) / (b - a)
    at = p + (line + 0.5 - a) * slope  # (K,) where the edge meets the line
    with torch.no_grad():
        column, edge = edge >= len(outline.image), edge % max(len(outline.image), 1)  # (K,)
        # 1: the surface ends at the crossing, -1: it begins there. One of the two faces may have no area, both do not.
        beside = p[:, None] + (points[:, 2:, 0] - a[:, None]) * slope[:, None] - points[:, 2:, 1]  # (K, 2)
        side = torch.sign(beside.sum(1))
        part = (line + 0.5 - a) / (b - a)
        depth = 1 / torch.lerp(*(1 / outline.depth[edge, :2]).unbind(1), part)
        outside = torch.stack([line + 0.5, at + OUTSIDE * side], -1)  # (K, 2)
        outside = torch.where(column[:, None], outside.flip(-1), outside)
        jump = _jump(outline, edge, outside, depth, size, visibility)
        pixel = (at - 0.5).floor()
        kept = ((jump > 0) & (pixel >= 0) & (pixel < size - 1)).nonzero()[:, 0]  # (M,)
        pixel, line, side, jump, column = pixel[kept].long(), line[kept].long(), side[kept], jump[kept], column[kept]
        where = torch.where(column, pixel * size + line, line * size + pixel)  # (M,) in an image
        # The pairs of all pixels have a place, those along rows first: finding the ones in use is one wait more.
        pixels = images * size**2
        pair, pairs = column * pixels + outline.image[edge[kept]] * size**2 + where, 2 * pixels
        # A fold just inside of an outline shows between the centres only: the pixels differ by the larger jump.
        largest = jump.new_zeros(pairs).scatter_reduce(0, pair, jump, "amax")
        counts = (jump >= largest[pair] / 2).to(slope)
        above, below = _sums(counts / (1 + slope[kept] ** 2), pair, pairs), _sums(counts, pair, pairs)
        balance = _sums(counts * side, pair, pairs)
    # An outline may go out, in and out again between two centres: signed positions add up.
    position = _sums(counts * side * (at[kept] - 0.5 - pixel), pair, pairs)
    balanced = (balance != 0).nonzero()[:, 0]  # (P,)
    position = position[balanced] / balance[balanced]
    first, step = balanced % max(pixels, 1), torch.where(balanced < pixels, 1, size)
    return Crossings(first, first + step, position.clamp(0, 1), above[balanced] / below[balanced])


def _lines(ends: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Edge (K,) and line (K,), a float, for each line of pixel centres between the ends (N, 2) of each edge."""
    first, last = (e.sub(0.5).ceil().clamp(0, size) for e in (ends.amin(1), ends.amax(1)))  # (N,)
    count = (last - first).long()
    edge = torch.arange(len(ends), device=ends.device).repeat_interleave(count)
    within = torch.arange(len(edge), device=ends.device) - (count.cumsum(0) - count)[edge]
    return edge, first[edge] + within


def _jump(outline: _Outline, edge: Tensor, outside: Tensor, depth: Tensor, size: int, visibility: Visibility) -> Tensor:
    """How much farther away (K,) the next surface beyond the edge is, in world units; zero where the edge is hidden.

    outside: (K, 2) pixel coordinates just beyond the edge; depth: (K,) of the edge there, along the viewing axis.
    """
    cameras = outline.camera_to_world[edge]  # (K, 4, 4)
    origins, directions = rays(cameras, outline.fovy[edge], outside[:, None], size, size)  # (K, 3), (K, 1, 3)
    distance = depth / -(directions[:, 0] * cameras[:, :3, 2]).sum(-1)
    _, next_distance = visibility.first_hits(origins, directions[:, 0])
    return torch.where(next_distance > distance * (1 + DEPTH_MARGIN), next_distance - distance, 0)


def _sums(values: Tensor, group: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add(0, group, values)
