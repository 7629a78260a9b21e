"""A prior whose passes cost next to nothing, for suites in which what it says does not matter."""

from pathlib import Path

from diffusers import UNet2DConditionModel

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion

TARGETS = "--trainer.callbacks.score.targets=[to_q, conv1]"  # of phi


def save_small_prior(folder: Path) -> None:
    """Writes an untrained pipeline of Stable Diffusion's kind, with attention in the middle of its UNet alone."""
    pipeline = untrained_stable_diffusion(TINY)
    channels = TINY.unet[:1]
    pipeline.unet = UNet2DConditionModel(
        sample_size=TINY.latents,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=TINY.groups,
        attention_head_dim=TINY.heads[:1],
        cross_attention_dim=TINY.text,
        use_linear_projection=True,
    )
    pipeline.save_pretrained(folder)
