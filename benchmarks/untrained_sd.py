"""Stable Diffusion's architecture with random weights: its block structure, at its own size or small enough for a CPU.

What runs on these runs on the real weights, which a benchmark or a test cannot load everywhere.

    python -m benchmarks.untrained_sd FOLDER [--size sd21]

writes such a pipeline as bfloat16 to a folder, which guidance.model may name.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Size:
    """Sizes of the networks.

    Args:
        unet: Channels of the UNet's blocks.
        vae: Channels of the autoencoder's blocks.
        text: Width of the text's embeddings.
        latents: Side of the latents.
        heads: Attention heads of the UNet's blocks.
        groups: Of the UNet's group norms; the autoencoder has half as many.
        layers: Per block.
    """

    unet: tuple[int, ...] = (32, 64, 96, 96)
    vae: tuple[int, ...] = (16, 32, 32, 32)
    text: int = 64
    latents: int = 16
    heads: tuple[int, ...] = (2, 4, 6, 6)
    groups: int = 16
    layers: int = 2


STABLE_DIFFUSION_2 = Size((320, 640, 1280, 1280), (128, 256, 512, 512), 1024, 64, (5, 10, 20, 20), 32)
TINY = Size((8, 8, 8, 8), (8, 8, 8, 8), 16, 4, (1, 1, 1, 1), 4, 1)


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer before any merge: one token per byte, so that it spells every text, 77 tokens long."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), BEGIN, END]
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        files[0].write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
        files[1].write_text("#version: 0.2\n")
        return CLIPTokenizer(str(files[0]), str(files[1]), model_max_length=77)


def untrained_stable_diffusion(
    size: Size | None = None, prediction: str = "epsilon", seed: int = 0
) -> StableDiffusionPipeline:
    """The pipeline of Stable Diffusion 2 with random weights.

    Args:
        size: Of the networks; small ones by default.
        prediction: epsilon, as 2.1-base, or v_prediction, as 2.1.
        seed: Of the UNet's and the text encoder's weights; the autoencoder's are always the same.

    Returns:
        The pipeline.
    """
    size, tokenizer = size or Size(), byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same autoencoder whatever the seed: models of one family share their latents
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae,
            layers_per_block=size.layers,
            latent_channels=4,
            norm_num_groups=size.groups // 2,
            sample_size=8 * size.latents,
        )
        torch.manual_seed(1 + seed)
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=size.text,
                    intermediate_size=2 * size.text,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=77,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            ),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=size.latents,
                block_out_channels=size.unet,
                layers_per_block=size.layers,
                norm_num_groups=size.groups,
                attention_head_dim=size.heads,
                cross_attention_dim=size.text,
                use_linear_projection=True,
            ),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type=prediction,
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def main(args: list[str] | None = None) -> None:
    """Writes a pipeline.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--size", default="small", choices=["small", "sd21"], help="of the networks")
    options = parser.parse_args(args)
    size = STABLE_DIFFUSION_2 if options.size == "sd21" else Size()
    untrained_stable_diffusion(size).to(torch.bfloat16).save_pretrained(options.folder)


if __name__ == "__main__":
    main()
