"""Figures that say how good a toybox prior is, against the true world.

Pipelines are diffusers' StableDiffusionPipeline; images are (B, 3, 64, 64) in [-1, 1].
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor

from toybox.prior.data import labels
from toybox.prior.latents import encode
from toybox.world.captions import VIEWS, caption
from toybox.world.objects import COLOURS, OBJECTS, WITH_FRONT
from toybox.world.renders import Renders, random_backgrounds

BATCH = 64
VISIBLE = 0.08  # a pixel this far from the background, in [0, 1], belongs to the object


@torch.no_grad()
def sample(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    guidance_scale: float,
    steps: int,
    rescale: float = 0.0,
    seed: int = 0,
    batch: int = BATCH,
) -> Tensor:
    """Samples of prompts, by the pipeline's own scheduler and classifier-free guidance.

    Args:
        pipeline: The prior.
        prompts: B of them.
        guidance_scale: 1 for no guidance.
        steps: Of the scheduler.
        rescale: How far the guided prediction gets the contrast of the unguided one, in [0, 1]; see diffusers.
        seed: Of the noise, which depends on `batch` as well.
        batch: Prompts that are sampled together.

    Returns:
        (B, 3, 64, 64) in [-1, 1].
    """
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    images = []
    for start in range(0, len(prompts), batch):
        images.append(
            pipeline(
                prompts[start : start + batch],
                guidance_scale=guidance_scale,
                guidance_rescale=rescale,
                num_inference_steps=steps,
                generator=generator,
                output_type="pt",
            ).images
        )
    return 2 * torch.cat(images).float().cpu() - 1


def encode_text(pipeline: StableDiffusionPipeline, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Last hidden states (B, L, D) and pooled outputs (B, D) of the text tower."""
    length = pipeline.tokenizer.model_max_length
    ids = pipeline.tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt").input_ids
    out = pipeline.text_encoder(ids)
    return out.last_hidden_state, out.pooler_output


@torch.no_grad()
def autoencoder_psnr(pipeline: StableDiffusionPipeline, images: Tensor) -> float:
    """Mean PSNR in dB over images of their noiseless reconstruction."""
    errors = []
    for part in images.split(BATCH):
        decoded = pipeline.vae.decode(pipeline.vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append((decoded - part).square().mean((1, 2, 3)))
    return float((10 * torch.log10(4 / torch.cat(errors))).mean())


@torch.no_grad()
def wrong_word_rise(
    pipeline: StableDiffusionPipeline, renders: Renders, index: Tensor, timesteps: Sequence[int], seed: int = 0
) -> list[dict[str, float]]:
    """How much worse the prediction of eps is when one word of the caption is wrong.

    Args:
        pipeline: With eps or v prediction.
        renders: True ones.
        index: (B,) of the renders to take.
        timesteps: t, each in 0 ... T - 1.
        seed: Of wrong words, backgrounds and noise, which are the same at every t.

    Returns:
        For each t the relative rise of the mean squared error, by the kind of the wrong word: "object", "colour", and
        "view", another azimuth sector, over the objects with a front.
    """
    rng = np.random.default_rng(seed)
    rows = list(zip(*labels(renders, index), strict=True))
    words = (list(OBJECTS), list(COLOURS), list(VIEWS.words[:-1]))

    def other(word: str, choices: list[str]) -> str:
        return str(rng.choice([c for c in choices if c != word]))

    captions = {
        "right": [caption(*row) for row in rows],
        "object": [caption(other(n, words[0]), c, v) for n, c, v in rows],
        "colour": [caption(n, other(c, words[1]), v) for n, c, v in rows],
        "view": [caption(n, c, other(v, words[2])) for n, c, v in rows],
    }
    is_v = pipeline.scheduler.config.prediction_type == "v_prediction"
    generator = torch.Generator().manual_seed(seed)
    images = renders.images(index, random_backgrounds(len(index), rng))
    errors: dict[tuple[int, str], list[Tensor]] = {(t, kind): [] for t in timesteps for kind in captions}
    for start in range(0, len(index), BATCH):
        part = slice(start, start + BATCH)
        latents = encode(pipeline.vae, images[part])  # (B, C, h, w)
        noise = torch.randn(latents.shape, generator=generator)
        text = {kind: encode_text(pipeline, texts[part])[0] for kind, texts in captions.items()}
        for t, kind in errors:
            alphabar = pipeline.scheduler.alphas_cumprod[t]
            alpha, sigma = alphabar.sqrt(), (1 - alphabar).sqrt()
            noisy = alpha * latents + sigma * noise
            out = pipeline.unet(noisy, t, text[kind]).sample
            eps = alpha * out + sigma * noisy if is_v else out
            errors[t, kind].append((eps - noise).square().mean((1, 2, 3)))
    means = {key: torch.cat(parts) for key, parts in errors.items()}
    fronted = torch.tensor([n in WITH_FRONT and v != VIEWS.overhead for n, _, v in rows])
    every = torch.ones_like(fronted)
    return [
        {
            kind: float(means[t, kind][rows].mean() / means[t, "right"][rows].mean() - 1)
            for kind, rows in (("object", every), ("colour", every), ("view", fronted))
        }
        for t in timesteps
    ]


def background_of(images: Tensor) -> Tensor:
    """The plain background (B, 3) in [0, 1] of images: the median of their border."""
    picture = (images + 1) / 2
    border = torch.cat([picture[:, :, 0], picture[:, :, -1], picture[:, :, :, 0], picture[:, :, :, -1]], -1)
    return border.median(-1).values


def nearest_instance_l1(image: Tensor, rgb: Tensor, alpha: Tensor) -> float:
    """Mean absolute difference between an image and the nearest true instance over the image's own background.

    The mean goes over the pixels that belong to either of the two objects.

    Args:
        image: (3, S, S) in [-1, 1].
        rgb: (N, 3, S, S) in [0, 1] of N instances, premultiplied.
        alpha: (N, 1, S, S) in [0, 1].

    Returns:
        The distance, in [0, 1].
    """
    background = background_of(image[None])[0][:, None, None]
    picture = (image + 1) / 2
    truth = rgb + (1 - alpha) * background
    mine = (picture - background).abs().amax(0) > VISIBLE
    either = (mine | (alpha[:, 0] > 0.5)).float()
    distance = ((picture - truth).abs().mean(1) * either).sum((1, 2)) / either.sum((1, 2)).clamp(min=1)
    return float(distance.min())


@torch.no_grad()
def image_features(pipeline: StableDiffusionPipeline, images: Tensor) -> Tensor:
    """Embeddings (B, D) of the toybox image tower."""
    return torch.cat([pipeline.image_encoder(part).image_embeds for part in images.split(BATCH)])


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance between Gaussians fitted to features (N, D) and (M, D).

    Source: Heusel et al. 2017, FID.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), whose matrix is symmetric
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


@torch.no_grad()
def retrieval_accuracy(
    pipeline: StableDiffusionPipeline, renders: Renders, index: Tensor, seed: int = 0
) -> dict[str, float]:
    """How often an image's best caption among all objects, colours and views is right.

    Args:
        pipeline: With an image tower and a text tower of one space.
        renders: True ones.
        index: (B,) of the renders to take.
        seed: Of the backgrounds.

    Returns:
        Fractions in [0, 1]: of right "object" and "colour" words, and over the objects with a front of right "view"
        words and of captions in which all is right ("caption").
    """
    choices = [(n, c, v) for n in OBJECTS for c in COLOURS for v in VIEWS.words]
    text = torch.cat(
        [encode_text(pipeline, [caption(*r) for r in choices[i : i + 256]])[1] for i in range(0, len(choices), 256)]
    )
    images = renders.images(index, random_backgrounds(len(index), np.random.default_rng(seed)))
    scores = F.normalize(image_features(pipeline, images), dim=-1) @ F.normalize(text, dim=-1).T
    found = [choices[i] for i in scores.argmax(1)]
    rows = list(zip(*labels(renders, index), strict=True))
    right = torch.tensor(
        [[a == b for a, b in zip(f, r, strict=True)] for f, r in zip(found, rows, strict=True)]
    ).float()
    fronted = torch.tensor([row[0] in WITH_FRONT for row in rows])
    return {
        "caption": float(right.prod(1)[fronted].mean()),
        "object": float(right[:, 0].mean()),
        "colour": float(right[:, 1].mean()),
        "view": float(right[fronted, 2].mean()),
    }
