"""Tetrahedral grids, marching tetrahedra and DMTet: a surface as the zero level of values on a deformable grid.

Values ("sdf") are positive inside the object and at most zero outside, as in DMTet; triangles turn counter-clockwise
seen from outside. V grid vertices, T tetrahedra, E crossed edges, F triangles.
The grid is the body-centred cubic lattice: the corners and the centres of N^3 cells. Every face between two cells
carries four tetrahedra, each spanned by the two centres and one edge of the face; all are congruent. The lattice is
arithmetic: neither positions nor tetrahedra are stored, and an extraction costs what the surface has, plus a few
comparisons of bits per cell.
Source: Shen et al. 2021, Deep Marching Tetrahedra; ProlificDreamer's geometry stage.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scene.mesh import Mesh

CHUNK = 2**18  # points of one call of a field
REACH = 0.2  # cells a vertex may move along an axis; from 0.25 on tetrahedra can turn over
Vector = tuple[float, float, float]


def _triangle_table() -> Tensor:
    """Triangles (16, 2, 3, 2) by the bits of the inside vertices: of each corner the (inside, outside) vertices.

    A corner lies on the edge between its two vertices; -1 where there is no (second) triangle. With vertices of
    positive volume the triangles turn counter-clockwise seen from the outside vertices.
    """
    table = torch.full((16, 2, 3, 2), -1)
    for i, j, k, m in itertools.permutations(range(4)):
        if sum(a > b for a, b in itertools.combinations((i, j, k, m), 2)) % 2:
            continue  # odd permutations mirror the tetrahedron
        table[1 << i, 0] = torch.tensor([(i, j), (i, k), (i, m)])
        table[15 - (1 << i), 0] = torch.tensor([(j, i), (m, i), (k, i)])
        one, two, three, four = (i, k), (i, m), (j, m), (j, k)
        table[1 << i | 1 << j] = torch.tensor([[one, two, three], [one, three, four]])
    return table


TRIANGLES = _triangle_table()


class TetrahedralGrid:
    """The lattice of N^3 cells in [-1, 1]^3.

    Its V = (N + 1)^3 + N^3 vertices are numbered corners first, then centres, z fastest.

    Args:
        resolution: N, cells per axis, >= 3.

    Raises:
        ValueError: The resolution is below 3.
    """

    def __init__(self, resolution: int):
        if resolution < 3:
            raise ValueError(f"resolution is {resolution}; a tetrahedral grid needs at least 3 cells per axis")
        self.resolution = resolution
        self.corners = (resolution + 1) ** 3

    def __len__(self) -> int:
        return self.corners + self.resolution**3

    def positions(self, index: Tensor) -> Tensor:
        """Positions (..., 3) in [-1, 1]^3 of the vertices `index` (...)."""
        centre = (index >= self.corners).long()
        side = self.resolution + 1 - centre
        local = index - centre * self.corners
        cell = torch.stack([local // side**2, local // side % side, local % side], -1)  # (..., 3)
        return (2 * cell + centre[..., None] - self.resolution) / self.resolution

    def border(self) -> Tensor:
        """Mask (V,) of the vertices on the boundary of the union of the tetrahedra."""
        masks = []
        for side in (self.resolution + 1, self.resolution):
            mask = torch.ones(side, side, side, dtype=torch.bool)
            mask[1:-1, 1:-1, 1:-1] = False
            masks.append(mask.flatten())
        return torch.cat(masks)

    def tetrahedra(self, inside: Tensor | None = None) -> Tensor:
        """The grid's tetrahedra, of positive volume.

        Args:
            inside: Bits (V,); only tetrahedra around cell faces near which they differ are listed. None for all.

        Returns:
            Vertices (T, 4), long.
        """
        n = self.resolution
        strides, corner_strides = (n * n, n, 1), ((n + 1) ** 2, n + 1, 1)
        if inside is not None:
            corners = inside[: self.corners].view(n + 1, n + 1, n + 1)
            centres = inside[self.corners :].view(n, n, n)
        tetrahedra = []
        for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            if inside is None:
                near = torch.ones(n - 1, n, n, dtype=torch.bool)
            else:
                cells, ring = centres.permute(a, b, c), corners.permute(a, b, c)[1:-1]
                near = cells[:-1] != cells[1:]
                for j, k in itertools.product((0, 1), repeat=2):
                    near |= cells[:-1] != ring[:, j : n + j, k : n + k]
            at = near.nonzero()  # (A, 3), faces between two cells along axis a
            centre = self.corners + sum(at[:, i] * strides[d] for i, d in enumerate((a, b, c)))
            corner = corner_strides[a] + sum(at[:, i] * corner_strides[d] for i, d in enumerate((a, b, c)))
            around = [0, corner_strides[b], corner_strides[b] + corner_strides[c], corner_strides[c]]
            for p, q in zip(around, around[1:] + around[:1], strict=True):
                tetrahedra.append(torch.stack([centre, centre + strides[a], corner + p, corner + q], -1))
        return torch.cat(tetrahedra)


@torch.no_grad()
def crossed_edges(inside: Tensor, tetrahedra: Tensor) -> tuple[Tensor, Tensor]:
    """Where the surface crosses the grid.

    Args:
        inside: Bits (V,) of the vertices inside the object.
        tetrahedra: (T, 4), of positive volume.

    Returns:
        Grid edges (E, 2) that the surface crosses, inside vertex first, and the triangles (F, 3) between them.
    """
    bits = 2 ** torch.arange(4, device=inside.device)
    code = (inside[tetrahedra] * bits).sum(-1)  # (T,)
    crossed = ((code > 0) & (code < 15)).nonzero()[:, 0]  # once: every use of a mask waits for the device
    table = TRIANGLES.to(inside.device, non_blocking=True)
    tetrahedra, local = tetrahedra[crossed], table[code[crossed]]  # local (T, 2, 3, 2)
    which, second = (local[:, :, 0, 0] >= 0).nonzero(as_tuple=True)  # (F,) each
    ends = tetrahedra[which].gather(1, local[which, second].flatten(1)).view(-1, 3, 2)  # (F, 3, 2)
    count = len(inside)
    key, faces = torch.unique(ends[..., 0] * count + ends[..., 1], return_inverse=True)
    return torch.stack([key // count, key % count], -1), faces


def zero_crossings(positions: Tensor, sdf: Tensor) -> Tensor:
    """Where values that are linear along edges are zero; differentiable in both.

    Args:
        positions: (E, 2, 3), of the edges' ends.
        sdf: (E, 2), the values there; the first is positive, the second at most zero.

    Returns:
        Points (E, 3).
    """
    part = sdf[:, :1] / (sdf[:, :1] - sdf[:, 1:])
    return positions[:, 0] + part * (positions[:, 1] - positions[:, 0])


class DMTet(nn.Module):
    """A surface on the lattice of N^3 cells in a box.

    Parameters: sdf (V,), used as it is, and deformation (V, 3), by which a vertex moves tanh(deformation) times a
    fifth of a cell along each axis. Within this bound a tetrahedron keeps at least 4 % of its volume, so the surface
    never cuts itself. The grid's border has the value -1, always: the surface is closed, and empty until `initialise`.

    Args:
        resolution: N, cells per axis, >= 3.
        low: The box's low corner, world units.
        high: The box's high corner, world units.

    Raises:
        ValueError: The resolution is below 3, or the box is empty.

    Source: Shen et al. 2021, Deep Marching Tetrahedra.
    """

    def __init__(self, resolution: int, low: Vector = (-1.0, -1.0, -1.0), high: Vector = (1.0, 1.0, 1.0)):
        super().__init__()
        self.grid = TetrahedralGrid(resolution)
        self.register_buffer("low", torch.tensor(low, dtype=torch.get_default_dtype()))
        self.register_buffer("high", torch.tensor(high, dtype=torch.get_default_dtype()))
        if not (self.low < self.high).all():
            raise ValueError(f"the box from {low} to {high} is empty; low must be below high on each axis")
        self.register_buffer("border", self.grid.border(), persistent=False)
        self.sdf = nn.Parameter(torch.zeros(len(self.grid)))
        self.deformation = nn.Parameter(torch.zeros(len(self.grid), 3))

    def positions(self, index: Tensor) -> Tensor:
        """World positions (..., 3) of the deformed vertices `index` (...)."""
        extent = self.high - self.low
        rest = self.low + (self.grid.positions(index).to(extent) + 1) / 2 * extent
        moved = self.deformation.index_select(0, index.flatten()).view(*index.shape, 3)
        return rest + torch.tanh(moved) * extent * (REACH / self.grid.resolution)

    @torch.no_grad()
    def initialise(self, field: Callable[[Tensor], Tensor]) -> None:
        """Sets the values to those of a field and the deformation to zero.

        Args:
            field: Points (N, 3) in the world to values (N,), positive inside.
        """
        self.deformation.zero_()
        for index in torch.arange(len(self.grid), device=self.sdf.device).split(CHUNK):
            self.sdf[index] = field(self.positions(index)).to(self.sdf)

    def extract(self) -> Mesh:
        """The surface now, differentiable in both parameters; a mesh without faces if there is none.

        It is manifold and closed.
        """
        with torch.no_grad():
            inside = (self.sdf > 0) & ~self.border
            edges, faces = crossed_edges(inside, self.grid.tetrahedra(inside))  # (E, 2), (F, 3)
        values = self.sdf.index_select(0, edges.flatten())
        values = torch.where(self.border[edges.flatten()], -1.0, values)
        return Mesh(zero_crossings(self.positions(edges), values.view(-1, 2)), faces)
