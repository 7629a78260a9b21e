"""What the stages that train radiance fields, NeRF and texture, have in common: learning rates and backgrounds."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.checks import require_positive, require_range


@dataclass(frozen=True)
class FieldRates:
    """How fields and their backgrounds learn; Adam has betas 0.9 and 0.99, eps 1e-15.

    Args:
        lr_encoding: Learning rate of the fields' encodings.
        lr_network: Learning rate of the fields' networks.
        lr_background: Learning rate of the learned backgrounds.
        lr_decay: Factor in (0, 1] to which all of them fall, exponentially, by the last step.
        weight_decay: Decoupled (AdamW), >= 0.

    Raises:
        InputError: A rate is negative or not finite, or lr_decay is not in (0, 1].
    """

    lr_encoding: float
    lr_network: float
    lr_background: float
    lr_decay: float
    weight_decay: float

    def __post_init__(self):
        require_positive("model.lr_decay", self.lr_decay)
        for name, value in vars(self).items():
            require_range(f"model.{name}", value, 0, 1 if name == "lr_decay" else math.inf)

    def optimizer(self, particles: nn.ModuleList, steps: int) -> dict:
        """The optimizer of all fields and backgrounds.

        Args:
            particles: Each has a `field` and a `background`.
            steps: Of the whole training.

        Returns:
            Optimizer and scheduler as Lightning takes them.
        """
        groups = [
            {"params": module.parameters(), "lr": lr}
            for p in particles
            for module, lr in (
                (p.field.encoding, self.lr_encoding),
                (p.field.network, self.lr_network),
                (p.background, self.lr_background),
            )
        ]
        # Without decay AdamW is Adam.
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_decay ** (step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Backgrounds:
    """Which colours objects have behind them.

    Args:
        random_background: Probability in [0, 1] that a view has one random plain colour, else the learned background.
        random_background_from: The particle's step from which on that holds; until then all views have the learned
            background.
        eval_background: Grey in [0, 1] of pictures, None for the learned background.

    Raises:
        InputError: One is not in [0, 1], or the step is negative.
    """

    random_background: float
    random_background_from: int
    eval_background: float | None

    def __post_init__(self):
        require_range("model.random_background", self.random_background, 0, 1)
        require_range("model.eval_background", self.eval_background, 0, 1)
        require_range("model.random_background_from", self.random_background_from, 0)

    def draw(self, learned: nn.Module, directions: Tensor, views: int, generator: torch.Generator, step: int) -> Tensor:
        """Draws the colours of training: for every view the learned background or one random plain colour.

        Args:
            learned: The particle's background, from directions (R, 3) to colours (R, 3).
            directions: Of the views' rays, (R, 3), view by view.
            views: Number of views, B.
            generator: Of the random numbers, on the device of the rays.
            step: Steps that the particle has made.

        Returns:
            Colours (R, 3) in [0, 1].
        """
        if step < self.random_background_from:
            return learned(directions)
        own = learned(directions).view(views, -1, 3)  # (B, R / B, 3)
        plain = torch.rand(views, 1, 3, generator=generator, device=own.device)
        use_plain = torch.rand(views, 1, 1, generator=generator, device=own.device) < self.random_background
        return torch.where(use_plain, plain, own).reshape(-1, 3)

    def of_picture(self, learned: nn.Module, directions: Tensor) -> Tensor | float:
        """The colours of a picture.

        Args:
            learned: The particle's background.
            directions: Of rays, (..., 3).

        Returns:
            (..., 3) in [0, 1], or a grey.
        """
        return learned(directions) if self.eval_background is None else self.eval_background
