"""Renders of textured meshes: colour, normal and coverage with antialiased outlines, differentiable throughout."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scene.cameras import Cameras
from scene.mesh import Mesh
from scene.rasterizer import Fragments, interpolate, rasterize
from scene.silhouettes import antialias, silhouettes
from scene.visibility import RayCaster, Visibility


@dataclass
class MeshRender:
    """Images of B cameras, S pixels per side; colour and normal are weighted with the coverage.

    Args:
        colour: (B, S, S, 3), rgb.
        normal: (B, S, S, 3), world axes.
        coverage: (B, S, S, 1), in [0, 1].
        directions: (B, S, S, 3), unit vectors of the pixels' rays.
    """

    colour: Tensor
    normal: Tensor
    coverage: Tensor
    directions: Tensor

    def side_by_side(self, background: Tensor | float, normal_background: float = 1.0) -> Tensor:
        """A picture of colour and normal, of the first camera.

        Args:
            background: Of the colour, (S, S, 3) in [0, 1], or a grey.
            normal_background: Grey of the normal's.

        Returns:
            (S, 2 S, 3) in [0, 1].
        """
        empty = 1 - self.coverage[0]  # (S, S, 1)
        normal = 0.5 * (self.normal[0] + self.coverage[0])
        return torch.cat([self.colour[0] + empty * background, normal + empty * normal_background], 1)


def render_mesh(
    mesh: Mesh, cameras: Cameras, colour: Callable[[Tensor], Tensor], visibility: Visibility | None = None
) -> MeshRender:
    """Renders of a mesh that may be empty.

    Args:
        mesh: What is seen.
        cameras: B cameras of S x S pixels.
        colour: Surface points (N, 3) to rgb (N, 3); differentiable in its own parameters and, if it is, in the points.
        visibility: Of the same mesh, to build it only once, or another backend's; a new RayCaster by default.

    Returns:
        The images, differentiable in the vertices and in the colour's parameters; zeros where nothing is seen.
    """
    view = cameras.camera_to_world.to(mesh.vertices), cameras.fovy.to(mesh.vertices), cameras.resolution
    visibility = visibility or RayCaster(mesh.vertices, mesh.faces)
    fragments = rasterize(mesh.vertices, mesh.faces, *view, visibility)
    if len(fragments.hit) == 0:
        # Zeros with a graph: a step without a view of the object is a step without a gradient, not an error.
        graph = mesh.vertices.sum() + colour(mesh.vertices.new_zeros(1, 3)).sum()
        nothing = mesh.vertices.new_zeros(*fragments.face.shape, 7) + 0 * graph
        return MeshRender(*nothing.split([3, 3, 1], -1), fragments.directions)
    colours = shade(fragments, mesh, colour)
    normals = interpolate(fragments, mesh.faces, mesh.vertex_normals())
    values = torch.cat([colours, normals, fragments.mask], -1)  # (B, S, S, 7)
    values = antialias(values, silhouettes(mesh, *view, visibility))
    return MeshRender(*values.split([3, 3, 1], -1), fragments.directions)


def shade(fragments: Fragments, mesh: Mesh, colour: Callable[[Tensor], Tensor]) -> Tensor:
    """Images of the colour at the surface points.

    Args:
        fragments: Of B images of the mesh.
        mesh: The mesh.
        colour: Surface points (N, 3) to rgb (N, 3).

    Returns:
        (B, S, S, 3), zero where nothing is seen.
    """
    hit = fragments.hit  # (N,)
    points = interpolate(fragments, mesh.faces, mesh.vertices).view(-1, 3).index_select(0, hit)  # (N, 3)
    image = points.new_zeros(fragments.face.numel(), 3).index_copy(0, hit, colour(points).to(points))
    return image.view(*fragments.face.shape, 3)
