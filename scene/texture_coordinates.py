"""Whether the texture coordinates of a given mesh can hold an image in which every point has its own place."""

import torch

from scene.mesh import Mesh
from scene.texture import Atlas, in_texels, nearest, texels_near

SIZE = 512  # texels of a side on which overlaps are looked for
OVERLAP = 0.005  # fraction of the covered texels in several faces from which on charts overlap
THIN = 1e-3  # of the texels that a face would have if all were spread evenly, below which it has no place
MISSING = 0.01  # fraction of the surface without a place in the image from which on the coordinates are of no use
OUTSIDE = 1e-4  # how far coordinates may be outside of [0, 1]
INSIDE = 1e-6  # barycentric weights of a point that is in one face alone, also on a common edge


def unusable(mesh: Mesh, atlas: Atlas) -> str | None:
    """Why an image cannot be baked for texture coordinates.

    Args:
        mesh: The mesh.
        atlas: Its texture coordinates.

    Returns:
        The reason, as the end of a sentence about the coordinates; None where there is none.
    """
    if atlas.uv.min() < -OUTSIDE or atlas.uv.max() > 1 + OUTSIDE:
        return "repeat the image, they are not in [0, 1]"
    corners = in_texels(Atlas(atlas.uv, atlas.faces, atlas.source, SIZE))  # (F, 3, 2)
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    texels = (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs() / 2  # (F,)
    areas = mesh.face_vectors().norm(dim=-1)
    if float(areas[texels < THIN * SIZE**2 * areas / areas.sum()].sum()) > MISSING * float(areas.sum()):
        return "give a part of the surface no place in the image"
    count = torch.zeros(SIZE * SIZE, device=corners.device)
    for face, where in texels_near(corners, SIZE, 0.0):
        inside = (nearest(corners[face], where.double())[1] > INSIDE).all(1)
        count += torch.bincount((where[:, 1] * SIZE + where[:, 0])[inside], minlength=SIZE * SIZE)
    if int((count > 1).sum()) > OVERLAP * int((count > 0).sum()):
        return "overlap"
    return None
