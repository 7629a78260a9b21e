"""Images as an autoencoder takes them, and their latents, of all views at once or of one after the other."""

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def encode(
    encoder: nn.Module, images: Tensor, posterior: torch.Generator | None = None, slicing: bool = False
) -> Tensor:
    """Latents of images, as the encoder scales them, with a graph.

    Args:
        encoder: An AutoencoderKL, or any other network with `encode`, such as an AutoencoderTiny.
        images: (B, 3, H, W) in [-1, 1], in the encoder's dtype.
        posterior: Draws the latents from the encoder's posterior, on the images' device; None for its mode.
        slicing: Whether the views are encoded one after the other, and anew, one by one, in the backward.

    Returns:
        (B, C, h, w).
    """
    if not slicing or len(images) == 1:
        out = encoder.encode(images)
        # AutoencoderKL gives a posterior, AutoencoderTiny latents.
        return _drawn(out.latent_dist, posterior) if hasattr(out, "latent_dist") else out.latents
    views = images.split(1)
    if torch.is_grad_enabled() and images.requires_grad:
        # Nothing is drawn inside, so that there is no state of random numbers to keep.
        parts = [checkpoint(_code, encoder, v, use_reentrant=False, preserve_rng_state=False) for v in views]
    else:
        parts = [_code(encoder, view) for view in views]
    codes, (is_posterior, *_) = torch.cat([code for code, _ in parts]), [kind for _, kind in parts]
    # Drawn of all views together: the numbers are those of all views at once.
    return _drawn(DiagonalGaussianDistribution(codes), posterior) if is_posterior else codes


def resized(images: Tensor, size: int) -> Tensor:
    """Images of another size, with a graph; those of that size as they are.

    Args:
        images: (B, C, S, S).
        size: Pixels of the new side.

    Returns:
        (B, C, size, size).
    """
    side = images.shape[-1]
    return images if side == size else F.interpolate(images, (size, size), mode="bilinear", antialias=side > size)


def _code(encoder: nn.Module, images: Tensor) -> tuple[Tensor, bool]:
    """What an encoder's head gives, and whether it is a posterior's mean and logarithm of the variance."""
    out = encoder.encode(images)
    is_posterior = hasattr(out, "latent_dist")
    return out.latent_dist.parameters if is_posterior else out.latents, is_posterior


def _drawn(posterior: DiagonalGaussianDistribution, generator: torch.Generator | None) -> Tensor:
    return posterior.mode() if generator is None else posterior.sample(generator)
