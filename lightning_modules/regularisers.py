"""The losses of the NeRF stage beside the guidance's.

R rays, N samples of a render. Entropies are binary, of probabilities cut to [1e-5, 1 - 1e-5].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.checks import require_range
from scene.volume_rendering import VolumeRender


@dataclass(frozen=True)
class Regularisers:
    """Weights of the losses beside the guidance's; 0 switches one off.

    Args:
        sparsity: Of the mean of sqrt(opacity^2 + 0.01), until the step sparsity_until, as in threestudio.
        opaque: Of the opacity's mean binary entropy (nats), from step opaque_from on, as in threestudio.
        opaque_from: The particle's step at which opaque begins.
        entropy: Of the mean binary entropy (bits) of the samples' weights, as in ProlificDreamer's code.
        sparsity_until: The particle's step at which sparsity ends; null for opaque_from.
        entropy_bins: Equal parts of every ray's way through the cube over which the entropy's mean is taken, the empty
            ones included; a part's weight is the sum of its samples'. 96, as many as the authors' samples of a ray,
            penalises fog as they do, however fine the lattice is. 0 for the mean over the lattice's occupied samples,
            which is weaker the finer the lattice and the more of the cube is fog.
        z_variance: Of the mean variance of a ray's depth (world units squared), over the rays of opacity above 0.5.

    Raises:
        InputError: One of them is negative.

    Source: ProlificDreamer's and threestudio's code; z_variance: Zhu et al. 2023, HiFA.
    """

    sparsity: float = 0.0
    opaque: float = 0.0
    opaque_from: int = 10_000
    entropy: float = 10.0
    sparsity_until: int | None = None
    entropy_bins: int = 0
    z_variance: float = 0.0

    def __post_init__(self):
        for name, value in vars(self).items():
            require_range(f"model.losses.{name}", value, 0)

    def penalty(self, out: VolumeRender, step: int, span: tuple[Tensor, Tensor]) -> Tensor:
        """The weighted sum of the losses, a scalar.

        Args:
            out: A particle's render.
            step: Steps that the particle has made.
            span: Distances (R,) and (R,) at which the rays enter and leave the cube, world units.
        """
        total = out.opacity.sum() * 0
        until = self.opaque_from if self.sparsity_until is None else self.sparsity_until
        if self.sparsity and step < until:
            total = total + self.sparsity * (out.opacity.square() + 0.01).sqrt().mean()
        if self.opaque and step >= self.opaque_from:
            total = total + self.opaque * entropy(out.opacity).mean()
        if self.entropy and len(out.weights):
            nats = binned_entropy(out, span, self.entropy_bins) if self.entropy_bins else entropy(out.weights).mean()
            total = total + self.entropy * nats / math.log(2.0)
        if self.z_variance:
            total = total + self.z_variance * depth_variance(out)
        return total


def entropy(p: Tensor) -> Tensor:
    """Binary entropies in nats of probabilities, of their shape."""
    p = p.clamp(1e-5, 1 - 1e-5)
    return -(p * p.log() + (1 - p) * (1 - p).log())


def binned_entropy(out: VolumeRender, span: tuple[Tensor, Tensor], bins: int) -> Tensor:
    """Mean entropy in nats of the weights of equal parts of the rays, a scalar.

    Neighbouring intervals act on light as one whose weight is the sum of theirs, so that the value does not depend on
    how finely a ray was sampled.

    Args:
        out: A render, whose samples are in ray order, from near to far.
        span: Distances (R,) and (R,) at which the rays enter and leave the cube, world units.
        bins: Parts of a ray between the two; parts without samples have the weight 0, and are counted.
    """
    enter, leave = span
    way = (out.distance - enter[out.ray]) / (leave - enter)[out.ray]  # (N,)
    part = out.ray * bins + (way * bins).long().clamp(0, bins - 1)
    seen, index = torch.unique_consecutive(part, return_inverse=True)
    weights = out.weights.new_zeros(len(seen)).index_add(0, index, out.weights)  # of the parts that have samples
    return entropy(weights).sum() / (len(enter) * bins)


def depth_variance(out: VolumeRender) -> Tensor:
    """Mean variance of the depth along the rays of opacity above 0.5, world units squared, a scalar; 0 without such.

    Args:
        out: A render.
    """
    opacity = out.opacity[:, 0].clamp(min=1e-5)  # (R,)
    mean = out.depth[:, 0] / opacity
    terms = out.weights / opacity[out.ray] * (out.distance - mean[out.ray]).square()  # (N,)
    variance = torch.zeros_like(opacity).index_add(0, out.ray, terms)  # (R,)
    solid = (out.opacity[:, 0] > 0.5).float()
    return (variance * solid).sum() / solid.sum().clamp(min=1)
