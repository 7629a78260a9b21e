"""Radiance fields without view dependence: density and albedo at points, and a background by direction.

World units; points (N, 3), densities (N,) per unit length, albedo (N, 3) in [0, 1].
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scene.hashgrid import HashGrid

Initialisation = Literal["object", "scene", "object-in-scene", "none"]
JOIN = 5 / 6  # where the object's and the scene's initial densities are equal


def initial_density(points: Tensor, kind: Initialisation, strength: float = 10.0, radius: float = 0.5) -> Tensor:
    """What is added to the density before its activation.

    Args:
        points: (N, 3), world units.
        kind: object: a blob, strength (1 - |x| / radius). scene: hollow, with minus the strength and 2.5 as the radius.
            object-in-scene: the blob inside |x| < 5/6, the hollow outside, which join there for the default values.
            none: zero.
        strength: Value in the middle.
        radius: Of the blob, world units, where its value is zero.

    Returns:
        (N,).

    Source: ProlificDreamer, section 4.2 and appendix.
    """
    distance = points.norm(dim=-1)
    blob = strength * (1 - distance / radius)
    hollow = -strength * (1 - distance / 2.5)
    if kind == "object":
        return blob
    if kind == "scene":
        return hollow
    if kind == "object-in-scene":
        return torch.where(distance < JOIN, blob, hollow)
    return torch.zeros_like(distance)


class DenseGrid(nn.Module):
    """Multi-level dense grid, interpolated trilinearly; on a CPU several times faster than hashing.

    Args:
        resolutions: Vertices per axis of the L levels.
        features: F, per level.
    """

    def __init__(self, resolutions: tuple[int, ...] = (8, 16, 32, 64), features: int = 4):
        super().__init__()
        self.grids = nn.ParameterList(torch.empty(1, features, r, r, r).uniform_(-1e-4, 1e-4) for r in resolutions)
        self.width = features * len(resolutions)

    def forward(self, points: Tensor) -> Tensor:
        """Features (N, L F) of points (N, 3) in [0, 1]; outside the border's values continue."""
        # grid_sample wants the fastest axis first, which is our z.
        where = (2 * points - 1).flip(-1)[None, :, None, None]  # (1, N, 1, 1, 3)
        parts = [F.grid_sample(g, where, padding_mode="border", align_corners=True) for g in self.grids]
        return torch.cat(parts, 1)[0, :, :, 0, 0].T


class RadianceField(nn.Module):
    """Density and albedo from an encoding and a network of one or two layers.

    Args:
        encoding: A HashGrid or DenseGrid.
        bound: Half the side of the cube that the encoding covers, world units.
        hidden: Width of the network's hidden layer; 0 for none, a linear decoder.
        initialisation: The kind of initial density, see initial_density.
        strength: See initial_density.
        radius: See initial_density.
    """

    def __init__(
        self,
        encoding: HashGrid | DenseGrid,
        bound: float = 1.0,
        hidden: int = 64,
        initialisation: Initialisation = "object",
        strength: float = 10.0,
        radius: float = 0.5,
    ):
        super().__init__()
        self.encoding, self.bound = encoding, bound
        self.initialisation, self.strength, self.radius = initialisation, strength, radius
        layers = [nn.Linear(encoding.width, hidden), nn.ReLU()] if hidden else []
        self.network = nn.Sequential(*layers, nn.Linear(hidden or encoding.width, 4))

    def _raw(self, points: Tensor) -> Tensor:
        return self.network(self.encoding(points / (2 * self.bound) + 0.5))

    def _activate(self, raw: Tensor, points: Tensor, noise: Tensor | None = None) -> Tensor:
        start = initial_density(points, self.initialisation, self.strength, self.radius)
        return F.softplus(raw[:, 0] + start if noise is None else raw[:, 0] + noise + start)

    def density(self, points: Tensor) -> Tensor:
        """Densities (N,) at points (N, 3), without the albedo."""
        return self._activate(self._raw(points), points)

    def forward(self, points: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Densities (N,) and albedo (N, 3) at points (N, 3); noise (N,) is added to the density before activation."""
        raw = self._raw(points)  # (N, 4)
        return self._activate(raw, points, noise), torch.sigmoid(raw[:, 1:])

    def normals(self, points: Tensor) -> Tensor:
        """Unit vectors (N, 3) against the density's gradient at points (N, 3); not differentiable, for pictures."""
        with torch.inference_mode(False), torch.enable_grad():
            points = points.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.density(points).sum(), points)
        return F.normalize(-gradient, dim=-1)


class Background(nn.Module):
    """A learned colour by ray direction: frequency encoding and a network of two layers.

    Args:
        bands: Frequencies 1, 2, 4, ... of the encoding.
        hidden: The network's width.

    Source: ProlificDreamer's code, four bands and 16 hidden units.
    """

    def __init__(self, bands: int = 4, hidden: int = 16):
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(bands), persistent=False)
        self.network = nn.Sequential(nn.Linear(3 + 6 * bands, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, directions: Tensor) -> Tensor:
        """Colours (R, 3) in [0, 1] of unit directions (R, 3)."""
        angles = (directions[..., None] * self.frequencies).flatten(-2)  # (R, 3 bands)
        return torch.sigmoid(self.network(torch.cat([directions, angles.sin(), angles.cos()], -1)))
