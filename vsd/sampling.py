"""Ancestral samples of a prior, by its own scheduler, from embeddings: the text encoders may be gone."""

import torch
from torch import Tensor

from vsd.prior import DiffusionPrior, Text


@torch.no_grad()
def ancestral_samples(
    prior: DiffusionPrior,
    text: Text,
    negative: Text,
    scale: float,
    rescale: float = 0.0,
    steps: int = 50,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws one sample per prompt; a score network on the prior's UNet stays switched off.

    Args:
        prior: The prior.
        text: Of B prompts.
        negative: Of B prompts that guidance leads away from.
        scale: Of classifier-free guidance.
        rescale: How far the guided prediction gets the contrast of the unguided one, in [0, 1] (Lin et al. 2023).
        steps: Of the pipeline's scheduler.
        generator: Draws the noise; on the CPU for the same samples on every device.

    Returns:
        Images (B, 3, H, W) in [0, 1], float32, on the CPU.
    """
    pooled = {}
    if text.pooled is not None:
        pooled = {"pooled_prompt_embeds": text.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    prior.pipeline.set_progress_bar_config(disable=True)
    images = prior.pipeline(
        prompt_embeds=text.states,
        negative_prompt_embeds=negative.states,
        **pooled,
        guidance_scale=scale,
        guidance_rescale=rescale,
        num_inference_steps=steps,
        generator=generator,
        output_type="pt",
    ).images
    return images.float().cpu()
