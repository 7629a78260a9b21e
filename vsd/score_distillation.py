"""One object's score distillation, without Lightning: renders in, particle loss out, and the score network's update.

prior = DiffusionPrior.load("toybox")
distillation = ScoreDistillation(prior, Prompts("a red car", views=eight_sectors()), Timesteps(steps=1000))
loss = distillation.particle_loss(images, View(cameras, azimuth, elevation), steps)
loss.backward()
distillation.update_score()
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vsd import distillation as gradients
from vsd.errors import InputError
from vsd.prior import DiffusionPrior
from vsd.prompts import Prompts, PromptTable
from vsd.randomness import generator
from vsd.score_network import ATTENTION, ScoreNetwork
from vsd.timesteps import Timesteps

Kind = Literal["vsd", "sds", "esd", "csd"]


@dataclass
class View:
    """From where B renders were made: camera-to-world matrices, azimuths and elevations in degrees."""

    cameras: Tensor  # (B, 4, 4)
    azimuth: Tensor  # (B,)
    elevation: Tensor  # (B,)


@dataclass(frozen=True)
class ScoreSettings:
    """How phi is trained.

    updates: K per particle step, >= 1; lr, betas, weight_decay: AdamW's; warmup: updates of the learning rate's linear
    rise; rank, targets, v_objective, weight_limit: see ScoreNetwork; camera_dropout: share of the samples whose camera
    is hidden, in [0, 1].
    Source: ProlificDreamer's code for the defaults (AdamW 1e-4, rank 4, K = 1, 500 warm-up steps).
    """

    updates: int = 1
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup: int = 500
    rank: int = 4
    targets: tuple[str, ...] = ATTENTION
    camera_dropout: float = 0.1
    v_objective: bool = True
    weight_limit: float = 20.0

    def __post_init__(self):
        if self.updates < 1:
            raise InputError(f"guidance.score.updates: {self.updates}; K must be at least 1")
        if not 0 <= self.camera_dropout <= 1:
            raise InputError(f"guidance.score.camera_dropout: {self.camera_dropout} is not in [0, 1]")


class ScoreDistillation:
    """Distills a prior into whatever made the renders.

    prompts: of the object; timesteps: the schedule, in particle steps; kind: vsd, sds, esd or csd; scale: of the
    classifier-free guidance of the prior; rescale: in [0, 1], contrast correction of the guided prediction; esd_scale:
    of the guidance over phi's camera; clamp: largest element of the gradient, None for no limit; seed: of t and noise,
    which are a function of (seed, rank, number of calls).
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        prompts: Prompts,
        timesteps: Timesteps,
        kind: Kind = "vsd",
        scale: float = 7.5,
        rescale: float = 0.0,
        esd_scale: float = 0.5,
        clamp: float | None = None,
        score: ScoreSettings | None = None,
        seed: int = 0,
        rank: int = 0,
    ):
        if kind not in ("vsd", "sds", "esd", "csd"):
            raise InputError(f"guidance.kind: '{kind}' is not one of vsd, sds, esd, csd")
        self.prior, self.timesteps, self.kind = prior, timesteps, kind
        self.scale, self.rescale, self.esd_scale, self.clamp = scale, rescale, esd_scale, clamp
        self.seed, self.rank, self.calls, self.updates = seed, rank, 0, 0
        self.table = PromptTable(prior, prompts)
        self.skipped = torch.zeros((), dtype=torch.long, device=prior.device)  # on the device: no sync per step
        self.network: ScoreNetwork | None = None
        if kind in ("vsd", "esd"):
            self.score = score or ScoreSettings()
            with torch.random.fork_rng():
                torch.manual_seed(seed)  # the same phi on every rank
                self.network = ScoreNetwork(prior, self.score.rank, self.score.targets)
            self.optimizer = torch.optim.AdamW(
                self.network.parameters(), self.score.lr, self.score.betas, weight_decay=self.score.weight_decay
            )
        self._seen: tuple[Tensor, Tensor] | None = None

    def _generator(self, stream: int, count: int) -> torch.Generator:
        return generator(self.prior.device, self.seed, self.rank, stream, count)

    def particle_loss(self, images: Tensor, view: View, steps: Tensor) -> Tensor:
        """The scalar whose gradient moves the particles.

        images: (B, 3, H, W) in [-1, 1], or latents with the UNet's number of channels; steps: (B,) how many steps the
        particle of each render has made. A gradient with nan or infinity is set to zero and counted in `skipped`.
        """
        latent = images.shape[1] == self.prior.unet.config.in_channels
        x_0 = images.float() if latent else self.prior.encode(images)
        draws = self._generator(0, self.calls)
        self.calls += 1
        t = self.timesteps.sample(steps, self.prior.steps, torch.Generator().manual_seed(draws.initial_seed()))
        t = t.to(self.prior.device)
        eps = torch.randn(x_0.shape, generator=draws, device=self.prior.device)
        gradient = self.gradient(x_0.detach(), t, eps, view)
        finite = gradients.is_finite(gradient)
        self.skipped += ~finite
        gradient = torch.where(finite, gradient, 0.0)
        if self.clamp is not None:
            gradient = gradients.clamp_gradient(gradient, self.clamp)
        self._seen = (x_0.detach(), view.cameras)
        return gradients.as_loss(x_0, gradient)

    @torch.no_grad()
    def gradient(self, x_0: Tensor, t: Tensor, eps: Tensor, view: View) -> Tensor:
        """The distillation gradient (B, C, h, w) at latents x_0 for given timesteps (B,) and noise."""
        prior, count = self.prior, len(x_0)
        x_t = prior.noise(x_0, t, eps)
        w = gradients.weight(prior.alphabar[t])
        text = self.table.of_cameras(view.azimuth, view.elevation)
        if self.scale == 1 and self.kind != "csd":
            eps_pretrain = prior.predict(x_t, t, text)
        else:
            negative = self.table.repeat(self.table.negative, count)
            eps_text, eps_uncond = prior.predict_many(x_t, t, [text, negative])
            if self.kind == "csd":
                return gradients.csd(eps_text, eps_uncond, w)
            eps_pretrain = gradients.guide(eps_text, eps_uncond, self.scale)
            if self.rescale:
                eps_pretrain = gradients.rescale(eps_pretrain, eps_text, x_t, prior.alphabar[t], self.rescale)
        if self.kind == "sds":
            return gradients.sds(eps_pretrain, eps, w)
        plain = self.table.repeat(self.table.plain, count)
        eps_phi = self.network.predict(x_t, t, plain, view.cameras)
        if self.kind == "vsd" or self.esd_scale == 1:
            return gradients.vsd(eps_pretrain, eps_phi, w)
        without = self.network.predict(x_t, t, plain, torch.zeros_like(view.cameras))
        return gradients.esd(eps_pretrain, eps_phi, without, self.esd_scale, w)

    def update_score(self) -> Tensor | None:
        """K steps of phi on the latents of the last particle step; the last loss, or None where there is no phi."""
        if self.network is None or self._seen is None:
            return None
        x_0, cameras = self._seen
        text = self.table.repeat(self.table.plain, len(x_0))
        loss = None
        for _ in range(self.score.updates):
            draws = self._generator(1, self.updates)
            t = torch.randint(0, self.prior.steps, (len(x_0),), generator=draws, device=self.prior.device)
            eps = torch.randn(x_0.shape, generator=draws, device=self.prior.device)
            hide = torch.rand(len(x_0), generator=draws, device=self.prior.device) < self.score.camera_dropout
            loss = self.network.loss(x_0, t, eps, text, cameras, hide, self.score.v_objective, self.score.weight_limit)
            self.optimizer.zero_grad()
            loss.backward()
            for group in self.optimizer.param_groups:
                group["lr"] = self.score.lr * min(1.0, (self.updates + 1) / max(self.score.warmup, 1))
            self.optimizer.step()
            self.updates += 1
        return loss.detach()

    def state_dict(self) -> dict:
        """Plain tensors and numbers: phi, its optimizer and the counters."""
        state = {"calls": self.calls, "updates": self.updates, "skipped": int(self.skipped)}
        if self.network is not None:
            state |= {"network": self.network.state(), "optimizer": self.optimizer.state_dict()}
        return state

    def load_state_dict(self, state: dict) -> None:
        """Restores `state_dict()`; InputError when phi has another architecture."""
        self.calls, self.updates = state["calls"], state["updates"]
        self.skipped.fill_(state["skipped"])
        if self.network is not None:
            if "network" not in state:
                raise InputError(
                    "guidance.kind: the checkpoint has no score network; resume with the kind it was made with"
                )
            self.network.load_state(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
