"""One particle step of score distillation: latents or images in, a gradient or a loss out.

Models, optimizers and the loop belong to the caller:

    prior = DiffusionPrior.load("toybox")
    phi = ScoreNetwork(prior, rank=8)
    distillation = ScoreDistillation(prior, phi)
    conditions = Conditions(embed(prior, prompts), embed(prior, [""] * len(prompts)))
    distillation.loss(x_0, conditions).backward()  # x_0: latents or images with a graph to your parameters
    phi.loss(x_0.detach(), conditions.text).backward()  # step phi's optimizer on it
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from common.errors import InputError
from vsd import gradients
from vsd.health import PhiHealth
from vsd.prior import DiffusionPrior, Text
from vsd.schedule import x0_of_eps
from vsd.score_trainer import Forward

Kind = Literal["vsd", "sds", "esd", "csd"]
LOW, HIGH = 0.02, 0.98  # range of t / T where none is given, as in DreamFusion


class Score(Protocol):
    """phi: a ScoreNetwork, or any object that predicts the noise of the caller's own renders."""

    def predict(self, x_t: Tensor, t: Tensor, text: Text, cameras: Tensor | None = None) -> Tensor:
        """eps_phi (B, C, H, W) at x_t and the prior's timesteps t (B,)."""


@dataclass
class Conditions:
    """What B samples are to show, one prompt per sample.

    Args:
        text: y^c of B samples.
        negative: What guidance leads away from, of B samples; not needed at scale 1.
        plain: y of B samples, for phi; None for `text`.
        cameras: (B, 4, 4), for a phi that knows cameras; None for no camera.
        away: Prompts of B samples each that Perp-Neg leads away from.
        away_weights: (N, B) of them, usually negative.
    """

    text: Text
    negative: Text | None = None
    plain: Text | None = None
    cameras: Tensor | None = None
    away: list[Text] = field(default_factory=list)
    away_weights: Tensor | None = None


class ScoreDistillation:
    """Distills a prior into whatever has rendered the samples.

    Args:
        prior: The pretrained model.
        network: phi; needed by "vsd" and "esd".
        kind: "vsd" (ProlificDreamer), "sds" (DreamFusion), "esd" (Wang et al. 2024) or "csd" (Yu et al. 2023).
        scale: Of the prior's classifier-free guidance; 1 for none.
        rescale: In [0, 1], how far the guided prediction gets the contrast of the unguided one (Lin et al. 2023).
        esd_scale: Of "esd"'s guidance over phi's camera; 1 is "vsd".
        phi_mix: Fraction of eps_phi in what is subtracted, in [0, 1]; the rest is eps. See gradients.mix.
        weight: w(t), see gradients.weight.
        reduction: Of the loss, see gradients.as_loss.
        clamp: The largest element of the gradient, > 0; None for no limit.
        shared_forward: Whether phi's forward keeps its graph, for `take_forward`; needs a ScoreNetwork.

    Attributes:
        latents: x_0 (B, C, H, W) of the last loss, without a graph: what phi learns next.
        skipped: A counter on the device of gradients with nan or infinity, which were set to zero.
        health: How well phi knows the renders; None without phi.

    Raises:
        InputError: An option is unknown, or phi is missing.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        network: Score | None = None,
        kind: Kind = "vsd",
        scale: float = 7.5,
        rescale: float = 0.0,
        esd_scale: float = 0.5,
        phi_mix: float = 1.0,
        weight: gradients.Weight = "sigma2",
        reduction: gradients.Reduction = "batch",
        clamp: float | None = None,
        shared_forward: bool = False,
    ):
        if kind not in ("vsd", "sds", "esd", "csd"):
            raise InputError(f"guidance.kind: '{kind}' is not one of vsd, sds, esd, csd")
        if kind in ("vsd", "esd") and network is None:
            raise InputError(f"guidance.kind: {kind} needs a score network; give one, or use sds or csd")
        if shared_forward and kind == "esd":
            raise InputError(
                "guidance.score.shared_forward: esd needs a phi that also knows renders without their camera, which "
                "the particle step's forward never hides; set it to false"
            )
        self.prior, self.network, self.kind = prior, network, kind
        self.scale, self.rescale, self.esd_scale, self.phi_mix = scale, rescale, esd_scale, phi_mix
        self.weight, self.reduction, self.clamp, self.shared_forward = weight, reduction, clamp, shared_forward
        self.skipped = torch.zeros((), dtype=torch.long, device=prior.device)  # on the device: no sync per step
        self.health = PhiHealth(prior.steps, prior.device) if kind in ("vsd", "esd") else None
        self.latents: Tensor | None = None
        self._forward: Forward | None = None

    def loss(
        self,
        images: Tensor,
        conditions: Conditions,
        t: Tensor | None = None,
        eps: Tensor | None = None,
        generator: torch.Generator | None = None,
        kind: Kind | None = None,
        full_encoder: bool = False,
        posterior: torch.Generator | None = None,
    ) -> Tensor:
        """The loss whose gradient moves what has rendered the images.

        A gradient with nan or infinity, also one that the autoencoder's backward gives, is set to zero and counted in
        `skipped`.

        Args:
            images: (B, 3, H, W) in [-1, 1], or latents (B, C, H, W), with a graph.
            conditions: Of the B samples.
            t: (B,), timesteps in 0 ... T - 1; drawn uniformly from 0.02 T ... 0.98 T if None.
            eps: Noise of the latents' shape; drawn if None.
            generator: Draws t and eps, on the prior's device.
            kind: Another one than this distillation's own.
            full_encoder: Whether the pipeline's own autoencoder encodes, where the prior has another encoder.
            posterior: Draws the latents of images from the encoder's posterior, on the prior's device; None for its
                mode.

        Returns:
            A scalar, or (B,) for the reduction "none".
        """
        x_0 = images.float()
        if not self.prior.is_latent(images):
            x_0 = self.prior.encode(images, full_encoder, posterior)
        self.latents = x_0.detach()
        if t is None:
            ends = int(LOW * self.prior.steps), int(HIGH * self.prior.steps)
            t = torch.randint(*ends, (len(x_0),), generator=generator, device=self.prior.device)
        if eps is None:
            eps = torch.randn(x_0.shape, generator=generator, device=self.prior.device)
        gradient = self._finite_or_zero(self.gradient(self.latents, t, eps, conditions, kind))
        if self.clamp is not None:
            gradient = gradients.clamp_gradient(gradient, self.clamp)
        if images.requires_grad:
            images.register_hook(self._finite_or_zero)  # the autoencoder's backward may overflow too
        return gradients.as_loss(x_0.where(x_0.isfinite(), 0.0), gradient, self.reduction)

    def _finite_or_zero(self, gradient: Tensor) -> Tensor:
        """The gradient, or zeros, and one more in `skipped`, where any of it is nan or infinite."""
        finite = gradients.is_finite(gradient)
        self.skipped += ~finite
        return torch.where(finite, gradient, 0.0)

    @torch.no_grad()
    def gradient(self, x_0: Tensor, t: Tensor, eps: Tensor, conditions: Conditions, kind: Kind | None = None) -> Tensor:
        """The distillation gradient at latents x_0.

        Args:
            x_0: (B, C, h, w).
            t: (B,), the prior's timesteps.
            eps: (B, C, h, w), the noise.
            conditions: Of the B samples.
            kind: Another one than this distillation's own.

        Returns:
            (B, C, h, w).
        """
        kind = kind or self.kind
        prior = self.prior
        x_t = prior.noise(x_0, t, eps)
        eps_text, eps_uncond, guided = self._pretrained(x_t, t, conditions, kind)
        w = self._weight(x_0, x_t, t, guided)
        if kind == "csd":
            return gradients.csd(eps_text, eps_uncond, w)
        if kind == "sds":
            return gradients.sds(guided, eps, w)
        eps_phi = self._score(x_0, x_t, t, eps, conditions, conditions.cameras)
        if self.health is not None:
            self.health.observe(t, eps, eps_phi, eps_text)
        eps_phi = gradients.mix(eps, eps_phi, self.phi_mix)
        if kind == "vsd" or self.esd_scale == 1:
            return gradients.vsd(guided, eps_phi, w)
        without = gradients.mix(eps, self._score(x_0, x_t, t, eps, conditions, None), self.phi_mix)
        return gradients.esd(guided, eps_phi, without, self.esd_scale, w)

    def _weight(self, x_0: Tensor, x_t: Tensor, t: Tensor, eps_pretrain: Tensor) -> Tensor:
        alphabar = self.prior.alphabar[t]
        if self.weight != "dmd":
            return gradients.weight(self.weight, alphabar)
        return gradients.weight("dmd", alphabar, x_0, x0_of_eps(eps_pretrain, x_t, alphabar))

    def _pretrained(
        self, x_t: Tensor, t: Tensor, conditions: Conditions, kind: Kind
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The prior's prediction for the text, without it (None where nobody asks), and the guided one."""
        prior, away = self.prior, conditions.away
        if self.scale == 1 and kind != "csd" and not away:
            eps_text = prior.predict(x_t, t, conditions.text)
            return eps_text, None, eps_text
        if conditions.negative is None:
            raise InputError(f"guidance: {kind} at scale {self.scale:g} needs a negative prompt, which may be empty")
        eps_text, eps_uncond, *eps_away = prior.predict_many(x_t, t, [conditions.text, conditions.negative, *away])

        def guide(scale: float) -> Tensor:
            if not away:
                return gradients.guide(eps_text, eps_uncond, scale)
            return gradients.perp_neg(eps_text, eps_uncond, torch.stack(eps_away), conditions.away_weights, scale)

        guided = guide(self.scale)
        if self.rescale and kind != "csd":
            guided = gradients.rescale(guided, eps_text, x_t, prior.alphabar[t], self.rescale)
        return guide(1.0) if away and kind == "csd" else eps_text, eps_uncond, guided

    def _score(
        self, x_0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, conditions: Conditions, cameras: Tensor | None
    ) -> Tensor:
        """eps_phi (B, C, h, w); a shared forward is kept."""
        text = conditions.plain or conditions.text
        if not self.shared_forward:
            return self.network.predict(x_t, t, text, cameras)
        with torch.enable_grad():
            raw = self.network.raw(x_t, t, text, cameras)
        self._forward = Forward(raw, x_0, self.network.own_times(t), eps)
        return self.network.eps_of(raw.detach(), x_t, t)

    def take_forward(self) -> Forward | None:
        """phi's forward of the last step, once, for its update; None where no forward is shared."""
        forward, self._forward = self._forward, None
        return forward
