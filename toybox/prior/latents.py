"""The latents of all training pictures, encoded once and kept in the cache folder."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from common.cache import cache_folder, cached
from toybox.world.renders import VERSION, Renders, random_backgrounds

BATCH = 128
KEY = "latents"


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w), float32 and without noise, of images (B, 3, H, W) in [-1, 1]."""
    return vae.encode(images).latent_dist.mode().float() * vae.config.scaling_factor


def load_latents(vae: AutoencoderKL, renders: Renders, seed: int, cache: str | Path | None = None) -> Tensor:
    """The latents of N renders and of their mirror images, from the cache, or encoded and put there.

    Each render has one background, its mirror image the same.

    Args:
        vae: The autoencoder. Its weights are part of the file's name.
        renders: N of them.
        seed: Of the backgrounds.
        cache: A folder (default: VSD_CACHE or ~/.cache/vsd).

    Returns:
        (2 N, C, h, w) float16 on the CPU; rows N and later are the mirror images.
    """
    path = Path(cache or cache_folder()) / f"toybox-latents-{_digest(vae, renders, seed)}.safetensors"
    return cached(path, lambda: {KEY: _encode_all(vae, renders, seed)})[KEY]


def _encode_all(vae: AutoencoderKL, renders: Renders, seed: int) -> Tensor:
    count = len(renders)
    backgrounds = random_backgrounds(count, np.random.default_rng([seed, count]))
    side = renders.rgba.shape[-1] // 2 ** (len(vae.config.block_out_channels) - 1)
    latents = torch.empty(2 * count, vae.config.latent_channels, side, side, dtype=torch.float16)
    for first, flip in ((0, False), (count, True)):
        for index in torch.arange(count).split(BATCH):
            images = renders.images(index, backgrounds[index], torch.full((len(index),), flip))
            images = images.to(vae.device).contiguous(memory_format=torch.channels_last)
            latents[first + index] = encode(vae, images).half().cpu()
    return latents


def _digest(vae: AutoencoderKL, renders: Renders, seed: int) -> str:
    """Names what the latents depend on; the renders by what they were drawn from, cameras and labels."""
    found = hashlib.sha256(f"{VERSION} {len(renders)} {seed} {vae.config.scaling_factor}".encode())
    cameras = renders.cameras
    drawn = (cameras.azimuth, cameras.elevation, cameras.distance, cameras.fovy, renders.name, renders.colour)
    for tensor in (*vae.state_dict().values(), *drawn):
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
