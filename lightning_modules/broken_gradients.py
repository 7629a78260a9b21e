"""Gradients of particles that have nan or infinity: left out, counted, and named when there are too many."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import InputError

LIMIT = 20  # broken gradients of a particle, beyond which training stops
CHECK_EVERY = 50  # steps between looks at the counts, each of which waits for the device


class BrokenGradients:
    """Sets gradients with nan or infinity to zero, and counts them and the sound ones, per particle.

    Nothing here waits for the device but `check`, whose counts begin anew when a run resumes.

    Args:
        particles: Number of particles.
    """

    def __init__(self, particles: int):
        self.counts = torch.zeros(2, particles, dtype=torch.long)  # all gradients, the broken ones

    def leave_out(self, index: int, parameters: Sequence[Tensor]) -> None:
        """Looks at a particle's gradient and, where its norm is not finite, sets it to zero.

        Args:
            index: Of the particle.
            parameters: Its tensors; those without a gradient are passed over.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        broken = ~torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        for gradient in gradients:
            gradient.masked_fill_(broken, 0.0)
        self.counts = self.counts.to(broken.device, non_blocking=True)
        self.counts[0, index] += 1
        self.counts[1, index] += broken

    def check(self, counts: Tensor, metrics: dict[str, Tensor], end: bool = False) -> str | None:
        """Judges the counts.

        Args:
            counts: (2, n), those of all ranks.
            metrics: Of the last step; those that are not finite are named as the cause.
            end: Whether no step follows.

        Returns:
            A warning, when no step follows and some gradients were left out.

        Raises:
            InputError: Too many gradients of a particle were broken, or when no step follows, all.
        """
        pairs = [(index, *pair) for index, pair in enumerate(zip(*counts.tolist(), strict=True))]
        for index, total, broken in pairs:
            if broken > LIMIT or (end and broken and broken == total):
                causes = [f"{name} is {float(v):g}" for name, v in metrics.items() if not math.isfinite(v)]
                cause = f" ({', '.join(causes)})" if causes else ""
                raise InputError(
                    f"particle {index}: {broken} of {total} gradients had nan or infinity{cause} and were left out; "
                    "lower the learning rates or weights of model, or guidance.scale, and resume"
                )
        left_out = [f"{broken} of {total} of particle {index}" for index, total, broken in pairs if broken]
        if end and left_out:
            return f"warning: gradients with nan or infinity were left out: {', '.join(left_out)}"
        return None
