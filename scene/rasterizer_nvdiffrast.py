"""Visibility by nvdiffrast instead of warp: an optional plug-in for CUDA, never imported by the rest of the project.

nvdiffrast is not part of the project's dependencies. Its licence allows non-commercial use only (research or
evaluation), which importing this module says on stdout. Whoever has installed it passes it to the renderer:

    from scene.mesh_rendering import render_mesh
    from scene.rasterizer_nvdiffrast import NvdiffrastVisibility

    visibility = NvdiffrastVisibility(mesh.vertices, mesh.faces)  # once per mesh
    render_mesh(mesh, cameras, colour, visibility)

Wherever the project takes a `scene.visibility.Visibility`, this one fits.
"""

from functools import cached_property

import nvdiffrast.torch as nvdiffrast
import torch
from torch import Tensor

from scene.visibility import RayCaster

print("rasterizer: nvdiffrast (NVIDIA Source Code License, non-commercial use only)", flush=True)

NEAR, FAR = 0.01, 100.0


class NvdiffrastVisibility:
    """A `scene.visibility.Visibility` whose images come from nvdiffrast.

    Surfaces nearer than 0.01 or farther than 100 along the viewing axis are not seen. nvdiffrast has no ray queries;
    those that silhouettes need are warp's, whose hierarchy is built when the first is asked for.

    Args:
        vertices: (V, 3) on CUDA, world units.
        faces: (F, 3); F may be 0.
        context: One context can serve several meshes, since its buffers are large; a new one by default.
    """

    backend = "nvdiffrast"

    def __init__(self, vertices: Tensor, faces: Tensor, context: "nvdiffrast.RasterizeCudaContext | None" = None):
        self.vertices, self.faces = vertices.detach().clone(), faces
        self.context = context or nvdiffrast.RasterizeCudaContext()

    @torch.no_grad()
    def visible_faces(self, camera_to_world: Tensor, fovy: Tensor, size: int) -> Tensor:
        """See Visibility."""
        if len(self.faces) == 0:
            return torch.full((len(fovy), size, size), -1, device=self.vertices.device)
        clip = clip_coordinates(self.vertices, camera_to_world, fovy).float()  # (B, V, 4)
        seen, _ = nvdiffrast.rasterize(self.context, clip, self.faces.int(), (size, size), grad_db=False)
        # (B, size, size, 4): the last channel is the face plus one; rows go up.
        return seen[..., 3].long().flip(1) - 1

    def first_hits(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See Visibility; by warp."""
        return self._caster.first_hits(origins, directions)

    @cached_property
    def _caster(self) -> RayCaster:
        return RayCaster(self.vertices, self.faces)


def clip_coordinates(vertices: Tensor, camera_to_world: Tensor, fovy: Tensor) -> Tensor:
    """OpenGL's clip coordinates of vertices in square images.

    Args:
        vertices: (V, 3), world units.
        camera_to_world: (B, 4, 4).
        fovy: (B,) vertical field of view, degrees.

    Returns:
        (B, V, 4); x to the right, y up, and w the depth along the viewing axis.
    """
    local = (vertices[None] - camera_to_world[:, None, :3, 3]) @ camera_to_world[:, :3, :3]  # (B, V, 3)
    focal = 1 / torch.tan(torch.deg2rad(fovy) / 2)[:, None, None]
    z = local[..., 2:]
    depth = (FAR + NEAR) / (NEAR - FAR) * z + 2 * FAR * NEAR / (NEAR - FAR)
    return torch.cat([focal * local[..., :2], depth, -z], -1).contiguous()
