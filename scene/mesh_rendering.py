"""Renders of textured meshes: colour, normal and coverage with antialiased outlines, differentiable throughout."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scene.cameras import pixel_rays
from scene.mesh import Mesh
from scene.rasterizer import Fragments, RayCaster, interpolate, visible_fragments
from scene.silhouettes import antialias, silhouettes


@dataclass
class MeshRender:
    """Images of B cameras; colour and normal are weighted with the coverage."""

    colour: Tensor  # (B, S, S, 3)
    normal: Tensor  # (B, S, S, 3), world
    coverage: Tensor  # (B, S, S, 1)
    directions: Tensor  # (B, S, S, 3) unit vectors of the pixels' rays


def render_mesh(
    mesh: Mesh,
    camera_to_world: Tensor,  # (B, 4, 4)
    fovy: Tensor,  # (B,) degrees
    size: int,
    colour: Callable[[Tensor], Tensor],
    caster: RayCaster | None = None,
) -> MeshRender:
    """Renders of a mesh that may be empty.

    colour: surface points (N, 3) to rgb (N, 3); differentiable in its own parameters and, if it is, in the points;
    caster: of the same mesh, to build it only once.
    """
    camera_to_world, fovy = camera_to_world.to(mesh.vertices), fovy.to(mesh.vertices)
    caster = caster or RayCaster(mesh.vertices, mesh.faces)
    origins, directions = pixel_rays(camera_to_world, fovy, size)
    face, _ = caster(origins, directions)
    fragments = visible_fragments(face.view(-1, size, size), mesh.vertices, mesh.faces, origins, directions)
    directions = directions.view(-1, size, size, 3)
    if not (face >= 0).any():
        # Zeros with a graph: a step without a view of the object is a step without a gradient, not an error.
        graph = mesh.vertices.sum() + colour(mesh.vertices.new_zeros(1, 3)).sum()
        nothing = mesh.vertices.new_zeros(*directions.shape[:3], 7) + 0 * graph
        return MeshRender(*nothing.split([3, 3, 1], -1), directions)
    values = torch.cat(
        [shade(fragments, mesh, colour), interpolate(fragments, mesh.faces, mesh.vertex_normals()), fragments.mask], -1
    )
    values = antialias(values, silhouettes(mesh, camera_to_world, fovy, size, caster))
    return MeshRender(*values.split([3, 3, 1], -1), directions)


def shade(fragments: Fragments, mesh: Mesh, colour: Callable[[Tensor], Tensor]) -> Tensor:
    """Images (B, S, S, 3) of the colour at the surface points, zero where nothing is seen."""
    hit = (fragments.face.flatten() >= 0).nonzero()[:, 0]
    points = interpolate(fragments, mesh.faces, mesh.vertices).view(-1, 3).index_select(0, hit)
    image = points.new_zeros(fragments.face.numel(), 3).index_copy(0, hit, colour(points).to(points))
    return image.view(*fragments.face.shape, 3)
