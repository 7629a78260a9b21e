"""Triangle meshes: normals, adjacency, smoothness losses, components.

V vertices, F faces, E edges. Faces turn counter-clockwise seen from outside. Everything but `components` is torch
without loops and differentiable in the vertices; adjacency is computed once a mesh, when first asked for.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor


class MeshError(ValueError):
    """A mesh that cannot be textured or exported as it is; the message is one line with the reason."""


@dataclass
class Edges:
    """The undirected edges of a mesh and the faces on them.

    Args:
        ends: (E, 2) vertices, the lower one first.
        count: (E,) faces on each edge.
        faces: (E, 2), two of those faces, -1 for none.
        opposite: (E, 2), their third vertices; twice the same where there is one face.
        consistent: (E,) bool, exactly two faces, which run along the edge in opposite directions.
    """

    ends: Tensor
    count: Tensor
    faces: Tensor
    opposite: Tensor
    consistent: Tensor


@dataclass
class Mesh:
    """A triangle mesh, which may be empty.

    Args:
        vertices: (V, 3), float, world units.
        faces: (F, 3), long.
    """

    vertices: Tensor
    faces: Tensor

    @property
    def is_empty(self) -> bool:
        """Whether there are no faces."""
        return len(self.faces) == 0

    def corners(self) -> Tensor:
        """Positions (F, 3, 3) of the faces' vertices."""
        return self.vertices.index_select(0, self.faces.flatten()).view(-1, 3, 3)

    def face_vectors(self) -> Tensor:
        """Outward normals (F, 3) whose length is twice the face's area."""
        a, b, c = self.corners().unbind(1)
        return torch.linalg.cross(b - a, c - a)

    def face_normals(self) -> Tensor:
        """Unit normals (F, 3), zero for faces without area."""
        return F.normalize(self.face_vectors(), dim=-1, eps=1e-20)

    def vertex_normals(self) -> Tensor:
        """Unit normals (V, 3), means over the adjacent faces weighted by area; zero where those cancel."""
        vectors = self.face_vectors()[:, None].expand(-1, 3, 3).reshape(-1, 3)
        return F.normalize(
            torch.zeros_like(self.vertices).index_add(0, self.faces.flatten(), vectors), dim=-1, eps=1e-20
        )

    def volume(self) -> Tensor:
        """Enclosed volume, a scalar; negative if the faces of a closed mesh turn the wrong way."""
        a, b, c = self.corners().unbind(1)
        return (a * torch.linalg.cross(b, c)).sum() / 6

    @cached_property
    def edges(self) -> Edges:
        """The edges, sorted by their ends."""
        with torch.no_grad():
            start, end = self.faces.flatten(), self.faces.roll(-1, 1).flatten()  # (3 F,) of the half-edges
            low, high = torch.minimum(start, end), torch.maximum(start, end)
            key, order = torch.sort(low * len(self.vertices) + high, stable=True)
            new = torch.ones_like(key, dtype=torch.bool)
            new[1:] = key[1:] != key[:-1]
            first = new.nonzero()[:, 0]  # (E,) of each edge's half-edges in the order of keys
            count = torch.diff(first, append=first.new_full((1,), len(key)))
            one, two = order[first], order[(first + 1).clamp(max=len(key) - 1)]
            pair = count > 1
            forward = start == low
            return Edges(
                ends=torch.stack([low[one], high[one]], -1),
                count=count,
                faces=torch.stack([one // 3, torch.where(pair, two // 3, -1)], -1),
                opposite=start[torch.stack([h // 3 * 3 + (h + 2) % 3 for h in (one, torch.where(pair, two, one))], -1)],
                consistent=(count == 2) & (forward[one] != forward[two]),
            )

    @property
    def is_watertight(self) -> bool:
        """Whether every edge has two faces, which agree on what is outside; true for an empty mesh."""
        return bool(self.edges.consistent.all())

    def normal_consistency(self) -> Tensor:
        """Mean of 1 - n_i . n_j over the pairs of faces that share an edge, in [0, 2].

        Source: ProlificDreamer's code, geometry stage.
        """
        pairs = self.edges.faces[self.edges.count == 2]  # (P, 2)
        if len(pairs) == 0:
            return self.vertices.sum() * 0
        one, two = self.face_normals().index_select(0, pairs.flatten()).view(-1, 2, 3).unbind(1)  # (P, 3)
        return (1 - (one * two).sum(-1)).mean()

    def laplacian(self) -> Tensor:
        """Mean over the vertices of |sum_j (v_i - v_j)| over the neighbours j, the uniform Laplacian, world units.

        Source: ProlificDreamer's code, geometry stage.
        """
        if len(self.vertices) == 0:
            return self.vertices.sum()
        ends = self.edges.ends
        one, two = self.vertices.index_select(0, ends.flatten()).view(-1, 2, 3).unbind(1)  # (E, 3)
        sums = torch.zeros_like(self.vertices).index_add(0, ends[:, 0], one - two).index_add(0, ends[:, 1], two - one)
        return sums.norm(dim=-1).mean()

    def components(self) -> tuple[int, Tensor]:
        """The number of connected components that have faces, and the component (F,), long, of each face."""
        if self.is_empty:
            return 0, self.faces.new_zeros(0)
        ends = self.edges.ends.cpu().numpy()
        graph = coo_array(
            (np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(len(self.vertices),) * 2
        )
        _, label = connected_components(graph, directed=False)
        used, of_face = torch.unique(torch.as_tensor(label).long()[self.faces[:, 0].cpu()], return_inverse=True)
        return len(used), of_face.to(self.faces.device)

    def without_small_components(self, fraction: float = 0.01) -> "Mesh":
        """Leaves out floaters.

        Args:
            fraction: Of all faces, in [0, 1], that a component must have to stay.

        Returns:
            The mesh of the other components, without unused vertices.
        """
        count, of_face = self.components()
        size = torch.bincount(of_face, minlength=count)
        faces = self.faces[(size >= fraction * len(self.faces))[of_face]]
        used, renumbered = torch.unique(faces, return_inverse=True)
        return Mesh(self.vertices[used], renumbered)
