"""Score distillation as pure functions: noise predictions in, gradients with respect to the latents out.

Shapes: x_0, x_t, eps and every prediction are (B, C, H, W); weights w are (B, 1, 1, 1).
Symbols: eps_pretrain, the pretrained model's prediction after guidance; eps_phi, the score network's, conditioned on
the camera; alpha_t = sqrt(alphabar_t), sigma_t = sqrt(1 - alphabar_t), x_t = alpha_t x_0 + sigma_t eps.
"""

import torch
from torch import Tensor

from vsd.schedule import eps_of_x0, per_sample, x0_of_eps


def weight(alphabar: Tensor) -> Tensor:
    """w(t) = sigma_t^2 = 1 - alphabar_t, (B,) to (B, 1, 1, 1). Source: ProlificDreamer, as in both reference codes."""
    return per_sample(1 - alphabar)


def sds(eps_pretrain: Tensor, eps: Tensor, w: Tensor) -> Tensor:
    """Score distillation sampling: w (eps_pretrain - eps). Source: DreamFusion, equation 3."""
    return vsd(eps_pretrain, eps, w)


def vsd(eps_pretrain: Tensor, eps_phi: Tensor, w: Tensor) -> Tensor:
    """Variational score distillation: w (eps_pretrain - eps_phi). Source: ProlificDreamer, equation 9.

    With eps in the place of eps_phi it is SDS.
    """
    return w * (eps_pretrain - eps_phi)


def damped(eps_phi: Tensor, eps: Tensor, share: float) -> Tensor:
    """share eps_phi + (1 - share) eps, in the place of eps_phi: between SDS, at share 0, and VSD, at 1.

    The mean of eps_phi - eps is a pull of the renders towards what phi has learned of them so far; the share of eps
    lets it act, which damps what a lagging phi drives away. Compare Wang et al. 2024, "SteinDreamer", where eps and
    eps_phi are control variates.
    """
    return torch.lerp(eps, eps_phi, share)


def esd(eps_pretrain: Tensor, eps_phi: Tensor, eps_phi_no_camera: Tensor, scale: float, w: Tensor) -> Tensor:
    """Entropic score distillation: VSD with classifier-free guidance over the score network's camera.

    scale: 1 is VSD, 0 uses the score of renders from any camera. Source: Wang et al. 2024, "Taming mode collapse".
    """
    return vsd(eps_pretrain, eps_phi_no_camera + scale * (eps_phi - eps_phi_no_camera), w)


def csd(eps_text: Tensor, eps_uncond: Tensor, w: Tensor, text: float = 1.0, uncond: float = 1.0) -> Tensor:
    """Classifier score distillation: w (text eps_text - uncond eps_uncond), without a score network.

    Source: Yu et al. 2023, "Text-to-3D with classifier score distillation", equation 8.
    """
    return w * (text * eps_text - uncond * eps_uncond)


def guide(eps_text: Tensor, eps_uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: eps_uncond + scale (eps_text - eps_uncond); scale 1 is eps_text alone."""
    return eps_uncond + scale * (eps_text - eps_uncond)


def perp_neg(eps_text: Tensor, eps_uncond: Tensor, eps_negatives: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Guidance away from other views, along directions perpendicular to the wanted one.

    eps_negatives: (N, B, C, H, W); weights: (N, B), usually negative. Only for the pretrained model: the score network
    knows no negative prompt. Source: Armandpour et al. 2023, Perp-Neg, equation 4.
    """
    main = eps_text - eps_uncond
    axes = (-3, -2, -1)
    others = eps_negatives - eps_uncond
    along = (others * main).sum(axes, keepdim=True) / main.square().sum(axes, keepdim=True).clamp(min=1e-12)
    pushed = (weights[..., None, None, None] * (others - along * main)).sum(0)
    return eps_uncond + scale * (main + pushed)


def rescale(eps: Tensor, eps_text: Tensor, x_t: Tensor, alphabar: Tensor, factor: float) -> Tensor:
    """Pulls the contrast of guided predictions back towards the unguided ones'.

    The deviation of the x_0 that `eps` implies is matched to the one that `eps_text` implies; factor 0 changes
    nothing, 1 matches fully. Source: MVDream, after Lin et al. 2023, section 3.4.
    """
    guided, plain = x0_of_eps(eps, x_t, alphabar), x0_of_eps(eps_text, x_t, alphabar)
    ratio = plain.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True).clamp(min=1e-8)
    return eps_of_x0(guided * (factor * ratio + 1 - factor), x_t, alphabar)


def as_loss(x_0: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to x_0 is `gradient` / B; its value is half the square norm, over B."""
    target = (x_0 - gradient).detach()
    return 0.5 * (x_0 - target).square().sum() / len(x_0)


def clamp_gradient(gradient: Tensor, limit: float) -> Tensor:
    """Every element of the gradient cut to [-limit, limit]. Source: debiased score distillation, Hong et al. 2023."""
    return gradient.clamp(-limit, limit)


def is_finite(gradient: Tensor) -> Tensor:
    """A boolean scalar: no element is nan or infinite."""
    return torch.isfinite(gradient).all()
