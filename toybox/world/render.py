"""Antialiased pictures of toybox solids.

The light is fixed in the world and depends on the surface normal alone, so that a radiance field without view
dependence can show exactly the same object: shade = AMBIENT + (1 - AMBIENT) * (1 + n . LIGHT) / 2.
Pixels whose neighbourhood shows an edge are sampled SAMPLES times, all others once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scene.cameras import Orbit, pixel_centres, rays
from toybox.world.builder import NOTHING
from toybox.world.shapes import MISS, Solids, intersect, normals

AMBIENT = 0.45
LIGHT = (0.28, 0.0, 0.96)
SAMPLES = 9


@dataclass
class Render:
    """What the cameras see; values are means over a pixel's samples, zero where nothing is hit.

    Args:
        rgb: (B, H, W, 3) in [0, 1], premultiplied by alpha.
        alpha: (B, H, W, 1) in [0, 1].
        normal: (B, H, W, 3) in the world, premultiplied by alpha.
        depth: (B, H, W, 1), distance along the ray in world units, premultiplied by alpha.
        parts: (B, H, W), the part index at the pixel's centre (see `toybox.world.builder.PARTS`), 0 for no object.
    """

    rgb: Tensor
    alpha: Tensor
    normal: Tensor
    depth: Tensor
    parts: Tensor

    def over(self, background: Tensor) -> Tensor:
        """Composites the picture.

        Args:
            background: (B, 3) or (3,), plain colours in [0, 1].

        Returns:
            (B, H, W, 3) in [0, 1].
        """
        return self.rgb + (1 - self.alpha) * background.reshape(-1, 1, 1, 3)


def render(solids: Solids, cameras: Orbit, size: int = 64) -> Render:
    """Renders solid i with camera i.

    Args:
        solids: B solids.
        cameras: B cameras, outside of the solids.
        size: Pixels of a side.

    Returns:
        B pictures.
    """
    matrices = cameras.camera_to_world()
    batch = len(solids)
    centres = pixel_centres(size, size)
    origins, directions = rays(matrices, cameras.fovy, centres, size, size)
    values, face = _shade(solids, origins, directions)
    parts = _parts(solids, face).reshape(batch, size, size)
    edges = _edges(values, face, size)

    most = int(edges.sum(1).max())
    if most:
        # Padded with pixels that are no edges: sampling those again does no harm.
        chosen = edges.to(torch.uint8).topk(most, dim=1).indices  # (B, E)
        side = round(SAMPLES**0.5)
        step = (torch.arange(side) + 0.5) / side - 0.5
        offsets = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).reshape(-1, 2)  # (S, 2)
        fine = (centres[chosen][:, :, None] + offsets).reshape(batch, -1, 2)
        _, directions = rays(matrices, cameras.fovy, fine, size, size)
        sampled, _ = _shade(solids, origins, directions)
        sampled = sampled.reshape(batch, most, SAMPLES, -1).mean(2)
        values.scatter_(1, chosen[..., None].expand_as(sampled), sampled)
    rgb, alpha, normal, depth = values.reshape(batch, size, size, 8).split([3, 1, 3, 1], -1)
    return Render(rgb, alpha, normal, depth, parts)


def _parts(solids: Solids, face: Tensor) -> Tensor:
    """The part indices of primitives; face: -1 for no primitive."""
    return torch.tensor((*solids.parts, NOTHING))[face]


def _shade(solids: Solids, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B, R, 8): rgb, alpha, normal, depth; and the index (B, R) of the primitive, -1 for none."""
    t, index = intersect(solids, origins, directions)
    hit = t < MISS
    depth = torch.where(hit, t, 0.0)[..., None]
    normal = normals(solids, origins[:, None] + depth * directions, index)
    light = torch.tensor(LIGHT)
    shade = AMBIENT + (1 - AMBIENT) * 0.5 * (1 + (normal @ (light / light.norm()))[..., None])
    colour = solids.colours[torch.arange(len(solids))[:, None], index]
    mask = hit[..., None].float()
    values = torch.cat([colour * shade * mask, mask, normal * mask, depth], -1)
    return values, torch.where(hit, index, -1)


def _edges(values: Tensor, face: Tensor, size: int) -> Tensor:
    """Mask (B, size^2) of pixels that differ from a neighbour in primitive or, by a crease, in normal."""
    face = face.reshape(-1, size, size)
    normal = values[..., 4:7].reshape(-1, size, size, 3)
    edge = torch.zeros_like(face, dtype=torch.bool)
    for axis in (1, 2):
        n = size - 1
        differs = face.narrow(axis, 0, n) != face.narrow(axis, 1, n)
        differs |= (normal.narrow(axis, 0, n) * normal.narrow(axis, 1, n)).sum(-1).lt(0.8) & face.narrow(axis, 0, n).ge(
            0
        )
        edge.narrow(axis, 0, n).logical_or_(differs)
        edge.narrow(axis, 1, n).logical_or_(differs)
    return edge.flatten(1)
