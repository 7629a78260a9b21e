"""Solid bodies from bits on the tetrahedral grid: no cavities inside, no floaters beside the object.

A radiance field is free to be hollow where no camera looks, and to leave floaters in empty space. Both would become
surfaces of their own, the cavities' with the wrong side out.
"""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from scene.mesh import Mesh
from scene.tetrahedra import DMTet, TetrahedralGrid

FLOATERS = 0.02  # components of a mesh with less than this fraction of its faces are left out


def grid_edges(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """All edges of a grid's tetrahedra: between corners, between centres, from corner to centre.

    Args:
        resolution: Cells per axis.

    Returns:
        The edges' ends, vertices of the grid, (E,) and (E,), int32.
    """
    n = resolution
    corners = np.arange((n + 1) ** 3, dtype=np.int32).reshape((n + 1,) * 3)
    centres = (n + 1) ** 3 + np.arange(n**3, dtype=np.int32).reshape((n,) * 3)
    starts, ends = [], []
    for axis in range(3):
        for lattice in (corners, centres):
            cut = [slice(None)] * 3
            cut[axis] = slice(None, -1)
            starts.append(lattice[tuple(cut)].ravel())
            cut[axis] = slice(1, None)
            ends.append(lattice[tuple(cut)].ravel())
    for offset in np.ndindex(2, 2, 2):
        starts.append(centres.ravel())
        ends.append(corners[tuple(slice(o, o + n) for o in offset)].ravel())
    return np.concatenate(starts), np.concatenate(ends)


def _pieces(bits: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected piece (V,) of each vertex whose bit is set, and the pieces' sizes; others are pieces of size 0."""
    joined = bits[start] & bits[end]
    graph = coo_array((np.ones(joined.sum(), dtype=np.int8), (start[joined], end[joined])), shape=(len(bits),) * 2)
    count, label = connected_components(graph, directed=False)
    return label, np.bincount(label, weights=bits, minlength=count)


def solid(grid: TetrahedralGrid, inside: Tensor, fraction: float = 0.05) -> Tensor:
    """The large bodies of a set of grid vertices, filled.

    What is outside and not joined to the grid's border counts as a cavity. All zeros stay all zeros.

    Args:
        grid: The grid.
        inside: Bits (V,).
        fraction: Of the largest body's vertices, in [0, 1], that a body must have to stay.

    Returns:
        Bits (V,).
    """
    bits = inside.cpu().numpy()
    start, end = grid_edges(grid.resolution)
    piece, size = _pieces(bits, start, end)
    bits = bits & (size[piece] >= fraction * size.max())
    piece, _ = _pieces(~bits, start, end)
    open_air = np.unique(piece[grid.border().numpy() & ~bits])
    return torch.as_tensor(bits | ~np.isin(piece, open_air)).to(inside.device)


@torch.no_grad()
def solidify(surface: DMTet, fraction: float = 0.05) -> None:
    """Gives a surface the values of solid bodies, in place: cavities and floaters change their sign.

    Args:
        surface: The surface.
        fraction: Of the largest body's vertices, in [0, 1], that a body must have to stay.
    """
    inside = (surface.sdf > 0) & ~surface.border
    body = solid(surface.grid, inside, fraction)
    value = surface.sdf.abs().clamp(min=1e-3)
    surface.sdf.copy_(torch.where(body == inside, surface.sdf, torch.where(body, value, -value)))


def solid_mesh(surface: DMTet) -> Mesh:
    """A surface as a fixed mesh of solid bodies without floaters; the surface itself stays as it is."""
    copy = DMTet(surface.grid.resolution).to(surface.sdf.device)
    copy.load_state_dict(surface.state_dict())
    solidify(copy)
    mesh = copy.extract()
    return Mesh(mesh.vertices.detach(), mesh.faces).without_small_components(FLOATERS)
