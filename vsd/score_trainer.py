"""phi's settings and training: its optimizer, warm-up, K updates per particle step, what it shares with that step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from common.checks import require_positive, require_range
from common.errors import InputError
from common.randomness import generator
from vsd.health import PhiHealth
from vsd.noise_predictor import NoisePredictor
from vsd.prior import DiffusionPrior, Text
from vsd.score_network import ATTENTION, ScoreNetwork, load_score_base
from vsd.small_score_network import SmallScoreNetwork

GAIN = 1.02  # of an adaptive learning rate per particle step; health remembers about 50
CALIBRATED = 0.97  # below, an adaptive learning rate rises
WITHIN = 30.0  # how far an adaptive learning rate goes from its start, as a factor
CEILING = 3e-3  # no adaptive learning rate rises above it: at 1e-2 phi ran away (docs/claims/phi.md)


@dataclass(frozen=True)
class ScoreSettings:
    """How phi is built, trained and used.

    Args:
        updates: K, steps of phi per update, >= 1.
        every: Particle steps from one update of phi to the next, >= 1 (K2 in ProlificDreamer's code).
        lr: AdamW's learning rate, > 0.
        betas: AdamW's.
        weight_decay: AdamW's.
        adaptive_lr: Whether phi's health sets the learning rate (see `vsd.health`): it rises by 2 % per particle step
            while phi lags behind the renders, falls by 2 % while phi's error on fresh renders is larger than the
            prior's, stays within 1 / 30 and 30 times `lr`, and does not rise above 0.003.
        warmup: Updates of the learning rate's linear rise, >= 0.
        network: "lora", a LoRA on the prior's UNet, or "small", a UNet of its own with random weights, which costs
            little and has everything to learn; see `vsd.small_score_network`.
        rank: Of the LoRA, >= 1; its alpha is the same.
        targets: Names of the UNet's layers that get a LoRA.
        camera_dropout: Fraction of the samples whose camera is hidden from phi in training, in [0, 1].
        v_objective: Whether phi's loss is the error of v, which weights that of eps with 1 / alphabar_t.
        weight_limit: The largest weight of the v objective for a network that predicts eps, > 0.
        model: Folder or hub id of a second pipeline whose UNet gets the LoRA, as in the paper; null for the prior's
            own UNet, which takes half the memory.
        shared_forward: Whether the first update learns from the particle step's own forward, at its t and with its
            noise and camera. It saves a pass, but holds the pass's activations until then.
        warm_start: Steps that a particle makes by SDS, while phi learns its renders, before eps_phi takes the place of
            eps; >= 0.
        phi_mix: Fraction of eps_phi in the mixture of eps and eps_phi that takes the place of eps_phi after the warm
            start, in [0, 1]; 1 is VSD as published, 0 is SDS.
        replay: Latents of past renders from which each update learns a random choice, once as many have been kept; 0
            for those of the last step alone. The first rank's are in the checkpoint.

    Source: ProlificDreamer's code for the defaults (AdamW with 1e-4, rank 4, K = 1, 500 warm-up steps, dropout 0.1).
    """

    updates: int = 1
    every: int = 1
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    adaptive_lr: bool = False
    warmup: int = 500
    network: Literal["lora", "small"] = "lora"
    rank: int = 4
    targets: tuple[str, ...] = ATTENTION
    camera_dropout: float = 0.1
    v_objective: bool = True
    weight_limit: float = 20.0
    model: str | None = None
    shared_forward: bool = False
    warm_start: int = 0
    phi_mix: float = 1.0
    replay: int = 0

    def __post_init__(self):
        for name in ("updates", "every"):
            if getattr(self, name) < 1:
                raise InputError(f"guidance.score.{name}: {getattr(self, name)}; it must be at least 1")
        if self.warm_start < 0:
            raise InputError(f"guidance.score.warm_start: {self.warm_start}; it counts particle steps, 0 for none")
        if self.replay < 0:
            raise InputError(f"guidance.score.replay: {self.replay}; it counts latents, 0 for none")
        if self.network == "small" and self.model is not None:
            raise InputError("guidance.score.model: a small network has no pretrained base; set network or model only")
        if self.replay and self.shared_forward:
            raise InputError("guidance.score.replay: a shared forward learns from the last step; set one of them only")
        for name in ("camera_dropout", "phi_mix"):
            require_range(f"guidance.score.{name}", getattr(self, name), 0, 1)
        for name in ("lr", "weight_limit"):
            require_positive(f"guidance.score.{name}", getattr(self, name))
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise InputError(f"guidance.score.betas: {beta} is not in [0, 1)")
        for name in ("weight_decay", "warmup"):
            require_range(f"guidance.score.{name}", getattr(self, name), 0)
        require_range("guidance.score.rank", self.rank, 1, 1024)


def build_phi(prior: DiffusionPrior, settings: ScoreSettings, seed: int, checkpointing: bool = False) -> NoisePredictor:
    """Builds the score network that settings ask for, with a camera.

    Args:
        prior: The prior.
        settings: Of the network.
        seed: Of its first weights, the same on every rank.
        checkpointing: Whether its passes with a gradient keep few activations.

    Raises:
        InputError: Its base does not load or does not go with the prior.
    """
    base = prior if settings.model is None else load_score_base(settings.model, prior)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if settings.network == "small":
            return SmallScoreNetwork(prior, True, checkpointing)
        return ScoreNetwork(base, settings.rank, settings.targets, True, prior, checkpointing)


class Forward(NamedTuple):
    """A forward of phi with its graph: what it has predicted for latents noised at own timesteps t with eps."""

    raw: Tensor  # (B, C, H, W)
    x_0: Tensor  # (B, C, H, W)
    t: Tensor  # (B,)
    eps: Tensor  # (B, C, H, W)


class ScoreTrainer:
    """Trains a score network on renders.

    Args:
        network: phi.
        settings: Of the optimizer and the loss; what builds and uses phi is left to others.
        seed: Of t, noise and dropout, which are a function of (seed, rank, number of updates).
        rank: Of this process.
        average: Replaces phi's gradients by their means over all ranks; None for one rank.

    Attributes:
        rate: The learning rate after its warm-up, a scalar on the device; it changes where it is adaptive.
        updates: Steps of phi so far.
        skipped: A counter on the device of steps that changed nothing, since their gradient had nan or infinity.
    """

    def __init__(
        self,
        network: NoisePredictor,
        settings: ScoreSettings,
        seed: int = 0,
        rank: int = 0,
        average: Callable[[list[Tensor]], None] | None = None,
    ):
        self.network, self.settings, self.seed, self.rank, self.average = network, settings, seed, rank, average
        # The fused step leaves everything as it is where found_inf says so, without asking the device.
        self.optimizer = torch.optim.AdamW(
            network.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.updates = 0
        self.rate = torch.tensor(settings.lr, device=network.base.device)
        self.skipped = torch.zeros((), dtype=torch.long, device=network.base.device)

    def adapt(self, health: PhiHealth) -> None:
        """Lets phi's health set the learning rate, once per particle step; does nothing where it is not adaptive.

        Args:
            health: Of this rank's particles; its figures are averaged over ranks, which share phi.
        """
        if not self.settings.adaptive_lr:
            return
        figures = torch.stack([health.ratio(), health.calibration()])  # (2,)
        if self.average is not None:
            self.average([figures])
        ratio, calibration = figures  # comparisons with nan, before anything was observed, are false
        factor = torch.where(ratio > 1, 1 / GAIN, torch.where(calibration < CALIBRATED, GAIN, 1.0))
        lr = self.settings.lr
        self.rate = (self.rate * factor).clamp(lr / WITHIN, max(lr, min(lr * WITHIN, CEILING)))

    def update(self, x_0: Tensor, text: Text, cameras: Tensor | None = None, shared: Forward | None = None) -> Tensor:
        """K steps of phi on latents of renders.

        Args:
            x_0: (B, C, H, W), without a graph.
            text: Of B plain prompts.
            cameras: (B, 4, 4), or None.
            shared: A forward of phi from which the first of the steps learns.

        Returns:
            The last step's loss, a scalar without a graph.
        """
        for _ in range(self.settings.updates):
            loss = self.loss(x_0, text, cameras) if shared is None else self._shared_loss(shared)
            shared = None
            self.optimizer.zero_grad()
            loss.backward()
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            if self.average is not None:
                self.average(grads)
            finite = torch.isfinite(torch.nn.utils.get_total_norm(grads))
            self.skipped += ~finite
            self.optimizer.found_inf = (~finite).float()
            warm = min(1.0, (self.updates + 1) / max(self.settings.warmup, 1))
            for group in self.optimizer.param_groups:
                group["lr"] = (self.rate if self.settings.adaptive_lr else self.settings.lr) * warm
            self.optimizer.step()
            self.updates += 1
        return loss.detach()

    def loss(self, x_0: Tensor, text: Text, cameras: Tensor | None = None) -> Tensor:
        """phi's loss for its next update, with t over the whole schedule; arguments as for `update`."""
        settings, base = self.settings, self.network.base
        draws = generator(base.device, self.seed, self.rank, 1, self.updates)
        t = torch.randint(0, base.steps, (len(x_0),), generator=draws, device=base.device)
        eps = torch.randn(x_0.shape, generator=draws, device=base.device)
        hidden = torch.rand(len(x_0), generator=draws, device=base.device) < settings.camera_dropout  # (B,)
        if cameras is not None:
            cameras = torch.where(hidden[:, None, None], torch.zeros_like(cameras), cameras)
        return self.network.loss(x_0, text, cameras, t, eps, settings.v_objective, settings.weight_limit)

    def _shared_loss(self, shared: Forward) -> Tensor:
        return self.network.error(*shared, self.settings.v_objective, self.settings.weight_limit)

    def state_dict(self) -> dict:
        """Plain tensors and numbers: phi, its optimizer and the counters."""
        return {
            "network": self.network.state(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "skipped": int(self.skipped),
            "rate": self.rate.cpu(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` has returned.

        Raises:
            InputError: phi has another architecture.
        """
        self.network.load_state(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        self.skipped.fill_(state["skipped"])
        if "rate" in state:  # not in checkpoints of earlier versions
            self.rate.copy_(state["rate"])
