"""Visibility by nvdiffrast instead of warp: an optional plug-in for CUDA, never imported by the rest of the project.

nvdiffrast is not part of the project's dependencies. Its licence allows non-commercial use only (research or
evaluation), which importing this module says on stdout.
"""

import nvdiffrast.torch as nvdiffrast
import torch
from torch import Tensor

from scene.cameras import pixel_rays
from scene.rasterizer import Fragments, visible_fragments

print("rasterizer: nvdiffrast (NVIDIA Source Code License, non-commercial use only)", flush=True)

NEAR, FAR = 0.01, 100.0


def rasterize(
    vertices: Tensor,  # (V, 3), CUDA
    faces: Tensor,  # (F, 3)
    camera_to_world: Tensor,  # (B, 4, 4)
    fovy: Tensor,  # (B,) degrees
    size: int,
    context: "nvdiffrast.RasterizeCudaContext",
) -> Fragments:
    """As `scene.rasterizer.rasterize`, float32. Surfaces nearer than 0.01 or farther than 100 are not seen.

    context: nvdiffrast.torch.RasterizeCudaContext(), built once.
    """
    origins, directions = pixel_rays(camera_to_world, fovy, size)
    face = torch.full((len(camera_to_world), size, size), -1, device=vertices.device)
    if len(faces):
        with torch.no_grad():
            clip = clip_coordinates(vertices, camera_to_world, fovy)
            seen, _ = nvdiffrast.rasterize(context, clip, faces.int(), (size, size), grad_db=False)
            # The last channel is the face plus one; rows go up.
            face = seen[..., 3].long().flip(1) - 1
    return visible_fragments(face, vertices, faces, origins, directions)


def clip_coordinates(vertices: Tensor, camera_to_world: Tensor, fovy: Tensor) -> Tensor:
    """OpenGL clip coordinates (B, V, 4) of vertices (V, 3)."""
    local = (vertices[None] - camera_to_world[:, None, :3, 3]) @ camera_to_world[:, :3, :3]
    focal = 1 / torch.tan(torch.deg2rad(fovy) / 2)[:, None, None]
    z = local[..., 2:]
    depth = (FAR + NEAR) / (NEAR - FAR) * z + 2 * FAR * NEAR / (NEAR - FAR)
    return torch.cat([focal * local[..., :2], depth, -z], -1).contiguous()
