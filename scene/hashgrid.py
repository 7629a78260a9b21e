"""The hash grid: multiresolution hash encoding with tiny-cuda-nn's parameter layout, and the code that computes it.

A checkpoint goes from one backend to the other: on CUDA the grid passes its parameters to tiny-cuda-nn's kernels where
tinycudann is installed; elsewhere scene.hash_encoding runs, which is the reference.
"""

import functools
from types import ModuleType

import torch
from torch import Tensor, nn

from scene.hash_encoding import Interpolation, encode, grid_levels


@functools.cache
def bindings() -> tuple[ModuleType | None, str]:
    """The module tinycudann, or None and why it cannot be used; looked for once per process."""
    try:
        import tinycudann
    except (ImportError, OSError) as error:  # an OSError: it was compiled for other GPUs
        return None, " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
    return tinycudann, ""


def backend(device: torch.device, padded: bool = False) -> str:
    """The name of the code that encodes points of a grid on a device; on CUDA without tinycudann also why."""
    if device.type != "cuda":
        return "torch"
    if padded:
        return "torch (tinycudann knows no padded levels)"
    module, why = bindings()
    return "tinycudann" if module else f"torch ({why})"


@functools.cache
def kernels(layout: tuple[tuple[str, int | float | str], ...]) -> nn.Module:
    """The Encoding of tinycudann for a layout, common to all grids of this layout, which lend it their parameters."""
    module, _ = bindings()
    # By default it computes in half precision.
    encoding = module.Encoding(3, {"otype": "HashGrid", **dict(layout)}, dtype=torch.float32)
    encoding.params = nn.Parameter(torch.empty(0))  # its own would take as much memory as a grid's
    return encoding


class HashGrid(nn.Module):
    """Encodes points in [0, 1]^3 as features; points outside are encoded too, nothing is clamped.

    The default is threestudio's grid for ProlificDreamer, 12,599,920 parameters. `params` is one float32 vector,
    initially uniform on [-1e-4, 1e-4].

    Args:
        levels_count: L, the number of levels.
        features: F, per level.
        log2_hashmap_size: Base-2 logarithm of the longest table's length.
        base_resolution: Of the coarsest level, vertices per axis.
        per_level_scale: Factor between the scales of two levels.
        interpolation: Inside a cell: "linear", or "smoothstep", whose slope is continuous from cell to cell.
        padded: Whether a dense level's axis has the vertex beyond the last, as in torch-ngp and ProlificDreamer's code;
            else such corners wrap around. tiny-cuda-nn's kernels do not know it: torch computes such a grid.
    """

    def __init__(
        self,
        levels_count: int = 16,
        features: int = 2,
        log2_hashmap_size: int = 19,
        base_resolution: int = 16,
        per_level_scale: float = 1.447269237440378,
        interpolation: Interpolation = "linear",
        padded: bool = False,
    ):
        super().__init__()
        self.levels = grid_levels(levels_count, log2_hashmap_size, base_resolution, per_level_scale, padded)
        self.features, self.interpolation, self.padded = features, interpolation, padded
        self.layout = (
            ("n_levels", levels_count),
            ("n_features_per_level", features),
            ("log2_hashmap_size", log2_hashmap_size),
            ("base_resolution", base_resolution),
            ("per_level_scale", per_level_scale),
            ("interpolation", interpolation.capitalize()),
        )
        count = features * sum(level.entries for level in self.levels)
        self.params = nn.Parameter(torch.empty(count).uniform_(-1e-4, 1e-4))

    @property
    def width(self) -> int:
        """Length L F of a point's features."""
        return len(self.levels) * self.features

    def forward(self, points: Tensor) -> Tensor:
        """Features (N, L F) of points (N, 3), coarsest level first; differentiable in the points and the parameters."""
        # Of no points tinycudann returns a gradient of the parameters that it has not written to.
        if points.is_cuda and not self.padded and len(points) and bindings()[0]:
            return torch.func.functional_call(kernels(self.layout), {"params": self.params}, points)
        return encode(points, self.params, self.levels, self.features, self.interpolation)
