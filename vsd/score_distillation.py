"""One object's score distillation, without Lightning: renders in, particle loss out, and the score network's update.

prior = DiffusionPrior.load("toybox")
distillation = ScoreDistillation(prior, Prompts("a red car", views=eight_sectors()), Timesteps(steps=1000))
loss = distillation.particle_loss(images, View(cameras, azimuth, elevation), steps)
loss.backward()
distillation.update_score()
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.errors import InputError
from common.randomness import generator
from vsd import gradients
from vsd.embeddings import embed, free_text_encoders
from vsd.prior import DiffusionPrior, Text
from vsd.prompts import Prompts, PromptTable
from vsd.score_network import ATTENTION, ScoreNetwork, load_score_base, matching_times
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
    is hidden, in [0, 1]; model: a folder or hub id whose UNet gets the LoRA, None for the prior's own; shared_forward:
    the first update learns from the particle step's own forward, at its t and with its noise and camera, which saves a
    pass but holds the pass's activations until then; warm_start: steps a particle makes by SDS, while phi learns its
    renders, before eps_phi takes the place of eps; share: of eps_phi in what is subtracted from then on, in [0, 1], the
    rest is eps (see distillation.damped), 1 for VSD as published.
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
    model: str | None = None
    shared_forward: bool = False
    warm_start: int = 0
    share: float = 1.0

    def __post_init__(self):
        if self.updates < 1:
            raise InputError(f"guidance.score.updates: {self.updates}; K must be at least 1")
        if self.warm_start < 0:
            raise InputError(f"guidance.score.warm_start: {self.warm_start}; it counts particle steps, 0 for none")
        for name in ("camera_dropout", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"guidance.score.{name}: {getattr(self, name)} is not in [0, 1]")


class ScoreDistillation:
    """Distills a prior into whatever made the renders.

    prompts: of the object; timesteps: the schedule, in particle steps; kind: vsd, sds, esd or csd; scale: of the
    classifier-free guidance of the prior; rescale: in [0, 1], contrast correction of the guided prediction; esd_scale:
    of the guidance over phi's camera; clamp: largest element of the gradient, None for no limit; seed: of t and noise,
    which are a function of (seed, rank, number of calls); perp_neg: how strongly the prior is led away from the other
    views, 0 for not at all, 1 for Perp-Neg's published weights; average: replaces phi's gradients by their means over
    all ranks, None for one rank.
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
        perp_neg: float = 0.0,
        average: Callable[[list[Tensor]], None] | None = None,
    ):
        if kind not in ("vsd", "sds", "esd", "csd"):
            raise InputError(f"guidance.kind: '{kind}' is not one of vsd, sds, esd, csd")
        if perp_neg and prompts.views is None:
            raise InputError(f"guidance.perp_neg: {perp_neg:g} without views; set guidance.views, or perp_neg to 0")
        self.prior, self.timesteps, self.kind = prior, timesteps, kind
        self.scale, self.rescale, self.esd_scale, self.clamp = scale, rescale, esd_scale, clamp
        self.perp_neg, self.average = perp_neg, average
        self.seed, self.rank, self.calls, self.updates = seed, rank, 0, 0
        self.table = PromptTable(prior, prompts)
        self.skipped = torch.zeros((), dtype=torch.long, device=prior.device)  # on the device: no sync per step
        self.network: ScoreNetwork | None = None
        if kind in ("vsd", "esd"):
            self._make_score_network(score or ScoreSettings(), prompts.prompt)
        self._seen: tuple[Tensor, Tensor] | None = None
        self._shared: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def _make_score_network(self, score: ScoreSettings, prompt: str) -> None:
        if score.shared_forward and self.kind == "esd":
            raise InputError(
                "guidance.score.shared_forward: esd needs a phi that also knows renders without their camera, which "
                "the particle step's forward never hides; set it to false"
            )
        self.score, base = score, self.prior
        self._plain, self._times = self.table.plain, None
        if score.model is not None:
            base = load_score_base(score.model, self.prior)
            self._plain = embed(base, [prompt])
            self._times = matching_times(self.prior.alphabar, base.alphabar)
            free_text_encoders(base)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # the same phi on every rank
            self.network = ScoreNetwork(base, score.rank, score.targets)
        # The fused step leaves everything as it is where found_inf says so, without asking the device.
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), score.lr, score.betas, weight_decay=score.weight_decay, fused=True
        )

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
        t = t.to(self.prior.device, non_blocking=True)
        eps = torch.randn(x_0.shape, generator=draws, device=self.prior.device)
        warm = self.network is not None and bool((steps < self.score.warm_start).all())
        gradient = self._finite_or_zero(self.gradient(x_0.detach(), t, eps, view, "sds" if warm else self.kind))
        if self.clamp is not None:
            gradient = gradients.clamp_gradient(gradient, self.clamp)
        self._seen = (x_0.detach(), view.cameras)
        if images.requires_grad:
            images.register_hook(self._finite_or_zero)  # the autoencoder's backward may overflow too
        return gradients.as_loss(x_0.where(x_0.isfinite(), 0.0), gradient)

    def _finite_or_zero(self, gradient: Tensor) -> Tensor:
        """The gradient, or zeros, and one more in `skipped`, where any of it is nan or infinite."""
        finite = gradients.is_finite(gradient)
        self.skipped += ~finite
        return torch.where(finite, gradient, 0.0)

    @torch.no_grad()
    def gradient(self, x_0: Tensor, t: Tensor, eps: Tensor, view: View, kind: Kind | None = None) -> Tensor:
        """The distillation gradient (B, C, h, w) at latents x_0 for given timesteps (B,) and noise.

        kind: another one than this distillation's own.
        """
        kind = kind or self.kind
        prior = self.prior
        x_t = prior.noise(x_0, t, eps)
        w = gradients.weight(prior.alphabar[t])
        text = self.table.of_cameras(view.azimuth, view.elevation)
        if self.scale == 1 and kind != "csd" and not self.perp_neg:
            eps_pretrain = prior.predict(x_t, t, text)
        else:
            negative = self.table.repeat(self.table.negative, len(x_0))
            others, weights = self._others(view)
            eps_text, eps_uncond, *eps_others = prior.predict_many(x_t, t, [text, negative, *others])

            def guided(scale: float) -> Tensor:
                if not others:
                    return gradients.guide(eps_text, eps_uncond, scale)
                return gradients.perp_neg(eps_text, eps_uncond, torch.stack(eps_others), weights, scale)

            if kind == "csd":
                return gradients.csd(guided(1.0) if others else eps_text, eps_uncond, w)
            eps_pretrain = guided(self.scale)
            if self.rescale:
                eps_pretrain = gradients.rescale(eps_pretrain, eps_text, x_t, prior.alphabar[t], self.rescale)
        if kind == "sds":
            return gradients.sds(eps_pretrain, eps, w)
        share = self.score.share
        eps_phi = gradients.damped(self._score(x_0, t, eps, view.cameras), eps, share)
        if kind == "vsd" or self.esd_scale == 1:
            return gradients.vsd(eps_pretrain, eps_phi, w)
        without = gradients.damped(self._score(x_0, t, eps, torch.zeros_like(view.cameras)), eps, share)
        return gradients.esd(eps_pretrain, eps_phi, without, self.esd_scale, w)

    def _others(self, view: View) -> tuple[list[Text], Tensor | None]:
        """The prompts that Perp-Neg leads away from, and their weights."""
        if not self.perp_neg:
            return [], None
        others, weights = self.table.negatives(view.azimuth, view.elevation)
        return others, self.perp_neg * weights

    def _score(self, x_0: Tensor, t: Tensor, eps: Tensor, cameras: Tensor) -> Tensor:
        """eps_phi for latents x_0 noised at the prior's timesteps t; a shared forward is kept for the update."""
        base = self.network.base
        if self._times is not None:
            t = self._times[t]
        x_t, text = base.noise(x_0, t, eps), self.table.repeat(self._plain, len(x_0))
        if not self.score.shared_forward:
            return self.network.predict(x_t, t, text, cameras)
        with torch.enable_grad():
            raw = self.network.raw(x_t, t, text, cameras)
        self._shared = raw, x_0, t, eps
        return base.eps_of(raw.detach(), x_t, t)

    def update_score(self) -> Tensor | None:
        """K steps of phi on the latents of the last particle step; the last loss, or None where there is no phi.

        A step whose gradient has nan or infinity changes nothing and is counted in `skipped`.
        """
        if self.network is None or self._seen is None:
            return None
        loss = None
        for _ in range(self.score.updates):
            loss = self._score_loss()
            self.optimizer.zero_grad()
            loss.backward()
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            if self.average is not None:
                self.average(grads)
            finite = torch.isfinite(torch.nn.utils.get_total_norm(grads))
            self.skipped += ~finite
            self.optimizer.found_inf = (~finite).float()
            for group in self.optimizer.param_groups:
                group["lr"] = self.score.lr * min(1.0, (self.updates + 1) / max(self.score.warmup, 1))
            self.optimizer.step()
            self.updates += 1
        return loss.detach()

    def _score_loss(self) -> Tensor:
        """phi's loss for its next update."""
        score = self.score
        if self._shared is not None:
            shared, self._shared = self._shared, None
            return self.network.error(*shared, score.v_objective, score.weight_limit)
        x_0, cameras = self._seen
        base, draws = self.network.base, self._generator(1, self.updates)
        text = self.table.repeat(self._plain, len(x_0))
        t = torch.randint(0, base.steps, (len(x_0),), generator=draws, device=base.device)
        eps = torch.randn(x_0.shape, generator=draws, device=base.device)
        hide = torch.rand(len(x_0), generator=draws, device=base.device) < score.camera_dropout
        return self.network.loss(x_0, t, eps, text, cameras, hide, score.v_objective, score.weight_limit)

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
