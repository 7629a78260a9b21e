"""Annealed timestep schedules, in particle steps.

A schedule gives the range [low, high] of the diffusion time t / T in [0, 1] from which a particle step draws t
uniformly. `step` counts the steps that this particle has made, not the trainer's.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.errors import InputError


@dataclass(frozen=True)
class Timesteps:
    """The range of t over a particle's steps.

    Args:
        steps: How many a particle makes, >= 1; the schedule is spread over them, and its end holds after them.
        kind: "two-phase", [low, high] until `switch`, [low, late_high] from then on (ProlificDreamer, section 3.4);
            "linear", both ends go linearly to [late_low, late_high] (MVDream); "sqrt", t falls from high to late_high
            with the square root of the progress, without chance (HiFA); "fixed", [low, high] throughout (DreamFusion).
        low: Lower end of t / T, in [0, 1].
        high: Upper end of t / T, in [0, 1], at least `low`.
        late_low: Lower end at the last step, of "linear".
        late_high: Upper end of "two-phase" after `switch`, and of "linear" and "sqrt" at the last step.
        switch: Fraction of the steps after which "two-phase" changes, in [0, 1].

    Raises:
        InputError: A value is out of its range.
    """

    steps: int
    kind: Literal["two-phase", "linear", "sqrt", "fixed"] = "two-phase"
    low: float = 0.02
    high: float = 0.98
    late_low: float = 0.02
    late_high: float = 0.5
    switch: float = 0.2

    def __post_init__(self):
        for name in ("low", "high", "late_low", "late_high", "switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"guidance.timesteps.{name}: {getattr(self, name)} is not in [0, 1]")
        for low, high in (("low", "high"), ("late_low", "late_high")):
            least, most = getattr(self, low), getattr(self, high)
            if least > most:
                raise InputError(f"guidance.timesteps.{low}: {least} is above guidance.timesteps.{high}, {most}")
        if self.steps < 1:
            raise InputError(f"guidance.timesteps.steps: {self.steps}; at least 1 is needed")

    def range(self, step: int) -> tuple[float, float]:
        """Ends (low, high) of t / T at a particle's step; past the last step the range stays."""
        progress = min(max(step / self.steps, 0.0), 1.0)
        if self.kind == "fixed" or (self.kind == "two-phase" and progress < self.switch):
            return self.low, self.high
        if self.kind == "two-phase":
            return self.low, max(self.low, self.late_high)
        if self.kind == "linear":
            return (
                self.low + (self.late_low - self.low) * progress,
                self.high + (self.late_high - self.high) * progress,
            )
        t = self.high + (self.late_high - self.high) * math.sqrt(progress)
        return t, t

    def sample(self, steps: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Timesteps (B,) in 0 ... count - 1 for particle steps (B,), drawn on the CPU; count: T."""
        low, high = torch.tensor([self.range(int(s)) for s in steps], dtype=torch.float64).unbind(1)
        drawn = low + (high - low) * torch.rand(len(steps), generator=generator, dtype=torch.float64)
        return (drawn * count).long().clamp(0, count - 1)
