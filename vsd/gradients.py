"""Score distillation as pure functions: noise predictions in, gradients with respect to the latents out.

Shapes: x_0, x_t, eps and every prediction are (B, C, H, W); weights w are (B, 1, 1, 1); alphabar is (B,).
Symbols: eps_pretrain, the pretrained model's prediction after guidance; eps_phi, the score network's; alpha_t =
sqrt(alphabar_t), sigma_t = sqrt(1 - alphabar_t), x_t = alpha_t x_0 + sigma_t eps.
"""

from typing import Literal

import torch
from torch import Tensor

from vsd.schedule import SMALLEST, eps_of_x0, per_sample, x0_of_eps

Weight = Literal["sigma2", "none", "snr", "dmd"]
Reduction = Literal["batch", "mean", "none"]


def weight(kind: Weight, alphabar: Tensor, x_0: Tensor | None = None, x_0_pretrain: Tensor | None = None) -> Tensor:
    """The weight w(t) of a difference of noise predictions.

    Args:
        kind: "sigma2", sigma_t^2 (ProlificDreamer and SwiftBrush, as in their code); "none", 1; "snr", sigma_t /
            alpha_t = SNR^(-1/2), with which a difference of noise predictions is that of the x_0 predictions; "dmd",
            the same over the mean of |x_0 - x_0_pretrain| per sample (DMD, equation 8; OSEDiff).
        alphabar: (B,), in [0, 1]. Below 1e-6, where x_t says nothing of x_0, it counts as 1e-6 in "snr" and "dmd".
        x_0: (B, C, H, W), the latents; needed by "dmd" alone.
        x_0_pretrain: (B, C, H, W), the pretrained model's prediction of them; needed by "dmd" alone.

    Returns:
        (B, 1, 1, 1).
    """
    if kind == "sigma2":
        return per_sample(1 - alphabar)
    if kind == "none":
        return per_sample(torch.ones_like(alphabar))
    snr = per_sample((1 - alphabar).sqrt() / alphabar.clamp(min=SMALLEST).sqrt())
    if kind == "snr":
        return snr
    return snr / (x_0 - x_0_pretrain).abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-8)


def sds(eps_pretrain: Tensor, eps: Tensor, w: Tensor) -> Tensor:
    """Score distillation sampling: w (eps_pretrain - eps).

    Source: DreamFusion, equation 3.
    """
    return vsd(eps_pretrain, eps, w)


def vsd(eps_pretrain: Tensor, eps_phi: Tensor, w: Tensor) -> Tensor:
    """Variational score distillation: w (eps_pretrain - eps_phi). With eps in the place of eps_phi it is SDS.

    Source: ProlificDreamer, equation 9. SwiftBrush, DMD and OSEDiff use the same difference with other weights.
    """
    return w * (eps_pretrain - eps_phi)


def mix(eps: Tensor, eps_phi: Tensor, phi_mix: float) -> Tensor:
    """What takes the place of eps_phi between SDS and VSD: phi_mix eps_phi + (1 - phi_mix) eps.

    The mean of eps_phi - eps pulls the renders towards what phi has learned of them so far. The part of eps lets it
    act, which damps what a lagging phi drives away.

    Args:
        eps: (B, C, H, W), the noise.
        eps_phi: (B, C, H, W), the score network's prediction.
        phi_mix: In [0, 1]: 0 is SDS, 1 is VSD.

    Source: compare SteinDreamer (Wang et al. 2024), where eps and eps_phi are control variates.
    """
    return torch.lerp(eps, eps_phi, phi_mix)


def esd(eps_pretrain: Tensor, eps_phi: Tensor, eps_phi_no_camera: Tensor, scale: float, w: Tensor) -> Tensor:
    """Entropic score distillation: VSD with classifier-free guidance over the score network's camera.

    Args:
        eps_pretrain: (B, C, H, W).
        eps_phi: (B, C, H, W), with the camera.
        eps_phi_no_camera: (B, C, H, W), of renders from any camera.
        scale: 1 is VSD, 0 uses `eps_phi_no_camera` alone.
        w: (B, 1, 1, 1).

    Source: Wang et al. 2024, "Taming mode collapse".
    """
    return vsd(eps_pretrain, eps_phi_no_camera + scale * (eps_phi - eps_phi_no_camera), w)


def csd(eps_text: Tensor, eps_uncond: Tensor, w: Tensor, text: float = 1.0, uncond: float = 1.0) -> Tensor:
    """Classifier score distillation, without a score network: w (text eps_text - uncond eps_uncond).

    Source: Yu et al. 2023, "Text-to-3D with classifier score distillation", equation 8.
    """
    return w * (text * eps_text - uncond * eps_uncond)


def guide(eps_text: Tensor, eps_uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: eps_uncond + scale (eps_text - eps_uncond); scale 1 is eps_text alone."""
    return eps_uncond + scale * (eps_text - eps_uncond)


def perp_neg(eps_text: Tensor, eps_uncond: Tensor, eps_negatives: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Guidance away from other views, along directions perpendicular to the wanted one.

    Args:
        eps_text: (B, C, H, W), for the wanted view.
        eps_uncond: (B, C, H, W).
        eps_negatives: (N, B, C, H, W), for the other views, by the pretrained model: phi knows no negative prompt.
        weights: (N, B), usually negative.
        scale: Of the guidance.

    Source: Armandpour et al. 2023, Perp-Neg, equation 4.
    """
    main = eps_text - eps_uncond
    axes = (-3, -2, -1)
    others = eps_negatives - eps_uncond  # (N, B, C, H, W)
    along = (others * main).sum(axes, keepdim=True) / main.square().sum(axes, keepdim=True).clamp(min=1e-12)
    pushed = (weights[..., None, None, None] * (others - along * main)).sum(0)
    return eps_uncond + scale * (main + pushed)


def rescale(eps: Tensor, eps_text: Tensor, x_t: Tensor, alphabar: Tensor, factor: float) -> Tensor:
    """Pulls the contrast of guided predictions towards the unguided ones'.

    Args:
        eps: (B, C, H, W), the guided prediction.
        eps_text: (B, C, H, W), the unguided one.
        x_t: (B, C, H, W).
        alphabar: (B,).
        factor: 0 changes nothing; 1 gives the x_0 that `eps` implies the deviation of the one of `eps_text`.

    Source: MVDream, after Lin et al. 2023, section 3.4.
    """
    guided, plain = x0_of_eps(eps, x_t, alphabar), x0_of_eps(eps_text, x_t, alphabar)
    ratio = plain.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True).clamp(min=1e-8)
    return eps_of_x0(guided * (factor * ratio + 1 - factor), x_t, alphabar)


def as_loss(x_0: Tensor, gradient: Tensor, reduction: Reduction = "batch") -> Tensor:
    """A loss with a given gradient; its value is half the square norm of the gradient, reduced likewise.

    Args:
        x_0: (B, C, H, W), with a graph.
        gradient: (B, C, H, W).
        reduction: "batch", the gradient is `gradient` / B (DreamFusion, ProlificDreamer); "mean", `gradient` over the
            number of all elements (SwiftBrush, DMD); "none", one loss (B,) per sample, whose gradient is `gradient`.

    Returns:
        A scalar, or (B,) for "none".
    """
    squares = (x_0 - (x_0 - gradient).detach()).square()
    if reduction == "batch":
        return 0.5 * squares.sum() / len(x_0)
    return 0.5 * (squares.mean() if reduction == "mean" else squares.flatten(1).sum(1))


def clamp_gradient(gradient: Tensor, limit: float) -> Tensor:
    """Every element of the gradient cut to [-limit, limit].

    Source: debiased score distillation, Hong et al. 2023.
    """
    return gradient.clamp(-limit, limit)


def is_finite(gradient: Tensor) -> Tensor:
    """A boolean scalar: no element is nan or infinite."""
    return torch.isfinite(gradient).all()
