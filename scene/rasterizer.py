"""Rasterisation: which face a pixel sees comes from a Visibility, everything differentiable from torch.

B images of H x W pixels (square, H = W = size), V vertices, F faces. Cameras as in `scene.cameras`; a pixel sees what
the ray through its centre hits first, front or back. Depths are distances along that ray, world units.
Gradients here are those of the inside of the visible faces; `scene.silhouettes` adds those of their outlines.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scene.cameras import pixel_rays
from scene.visibility import RayCaster, Visibility, intersect


@dataclass
class Fragments:
    """What the pixels' centres see; zero where that is nothing.

    Args:
        face: (B, H, W) long, -1 for nothing.
        barycentric: (B, H, W, 3), weights of the face's vertices, differentiable in the vertices.
        depth: (B, H, W), differentiable in the vertices.
        directions: (B, H, W, 3), unit vectors of the pixels' rays.
        hit: (N,) long, flat indices of the pixels that see a face: to find them, the host waits for the device.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor
    directions: Tensor
    hit: Tensor

    @property
    def mask(self) -> Tensor:
        """1.0 where a face is seen, (B, H, W, 1); coverage after antialiasing."""
        return (self.face >= 0)[..., None].to(self.depth)


def rasterize(
    vertices: Tensor,
    faces: Tensor,
    camera_to_world: Tensor,
    fovy: Tensor,
    size: int,
    visibility: Visibility | None = None,
) -> Fragments:
    """The fragments of B images; empty ones if nothing is seen.

    Args:
        vertices: (V, 3), world units.
        faces: (F, 3), long; F may be 0.
        camera_to_world: (B, 4, 4).
        fovy: (B,) vertical field of view, degrees.
        size: Pixels per side.
        visibility: Of the same vertices and faces, to build it only once; a new RayCaster by default.

    Returns:
        The fragments, differentiable in the vertices.
    """
    camera_to_world, fovy = camera_to_world.to(vertices), fovy.to(vertices)
    face = (visibility or RayCaster(vertices, faces)).visible_faces(camera_to_world, fovy, size)
    return visible_fragments(face, vertices, faces, *pixel_rays(camera_to_world, fovy, size))


def visible_fragments(face: Tensor, vertices: Tensor, faces: Tensor, origins: Tensor, directions: Tensor) -> Fragments:
    """The fragments for visible faces that are known already.

    Args:
        face: (B, H, W) long, -1 for nothing.
        vertices: (V, 3).
        faces: (F, 3), long.
        origins: (B H W, 3), of the pixels' rays.
        directions: (B H W, 3), unit length.

    Returns:
        The fragments, differentiable in the vertices.
    """
    hit = (face.flatten() >= 0).nonzero()[:, 0]  # (N,) of the N pixels that see a face
    seen = faces.index_select(0, face.flatten()[hit])  # (N, 3)
    triangles = vertices.index_select(0, seen.flatten()).view(-1, 3, 3)
    weights, distance = intersect(triangles, origins[hit], directions[hit])  # (N, 3), (N,)
    barycentric = vertices.new_zeros(face.numel(), 3).index_copy(0, hit, weights)
    depth = vertices.new_zeros(face.numel()).index_copy(0, hit, distance)
    shape = (*face.shape, 3)
    return Fragments(face, barycentric.view(shape), depth.view(face.shape), directions.view(shape), hit)


def interpolate(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Images of vertex attributes, differentiable in them and, through the barycentric weights, in the vertices.

    Args:
        fragments: Of B images.
        faces: (F, 3), long, of the same mesh.
        attributes: (V, C).

    Returns:
        (B, H, W, C), zero where nothing is seen.
    """
    hit = fragments.hit  # (N,)
    seen = faces.index_select(0, fragments.face.flatten()[hit])  # (N, 3)
    corners = attributes.index_select(0, seen.flatten()).view(-1, 3, attributes.shape[1])  # (N, 3, C)
    values = torch.einsum("nk,nkc->nc", fragments.barycentric.view(-1, 3).index_select(0, hit), corners)
    image = values.new_zeros(fragments.face.numel(), attributes.shape[1]).index_copy(0, hit, values)
    return image.view(*fragments.face.shape, -1)


def project(points: Tensor, camera_to_world: Tensor, fovy: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where points appear in images, each by a camera of its own.

    Args:
        points: (N, 3), world units, in front of their cameras (depth > 0).
        camera_to_world: (N, 4, 4).
        fovy: (N,) degrees.
        size: Pixels per side.

    Returns:
        Pixel coordinates (N, 2), (row, column), and depths (N,) along the viewing axis, world units.
    """
    local = torch.einsum("nd,ndc->nc", points - camera_to_world[:, :3, 3], camera_to_world[:, :3, :3])  # (N, 3)
    depth = -local[:, 2]
    focal = 0.5 * size / torch.tan(torch.deg2rad(fovy) / 2)  # (N,) pixels
    scale = (focal / depth)[:, None]
    return size / 2 + scale * torch.stack([-local[:, 1], local[:, 0]], -1), depth
