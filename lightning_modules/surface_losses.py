"""The losses of the geometry stage beside the guidance's."""

from dataclasses import dataclass

from torch import Tensor

from common.checks import require_range
from scene.mesh import Mesh


@dataclass(frozen=True)
class SurfaceLosses:
    """Weights of the losses beside the guidance's; 0 switches one off.

    Args:
        consistency: Of the mean of 1 - cosine between the normals of faces with a common edge.
        laplacian: Of the mean length of the uniform Laplacian, world units.
        opacity: Of the mean squared difference between the surface's coverage and the NeRF's opacity.
        vertex_consistency: Of the mean of 1 - cosine between the normals of vertices with a common edge, as in
            threestudio.

    Raises:
        InputError: One of them is negative.
    """

    consistency: float = 5000.0
    laplacian: float = 0.5
    opacity: float = 0.0
    vertex_consistency: float = 0.0

    def __post_init__(self):
        for name, value in vars(self).items():
            require_range(f"model.losses.{name}", value, 0)

    def penalty(self, mesh: Mesh, coverage: Tensor, opacity: Tensor | None) -> Tensor:
        """The weighted sum of the losses, a scalar.

        Args:
            mesh: A particle's surface.
            coverage: (B, S, S, 1) of its render, in [0, 1].
            opacity: (B, S, S, 1) of its NeRF from the same cameras; None where that loss is off.
        """
        total = mesh.vertices.sum() * 0
        if self.consistency:
            total = total + self.consistency * mesh.normal_consistency()
        if self.vertex_consistency:
            ends = mesh.vertex_normals()[mesh.edges.ends]  # (E, 2, 3)
            total = total + self.vertex_consistency * (1 - (ends[:, 0] * ends[:, 1]).sum(-1)).mean()
        if self.laplacian:
            total = total + self.laplacian * mesh.laplacian()
        if self.opacity:
            total = total + self.opacity * (coverage - opacity).square().mean()
        return total
