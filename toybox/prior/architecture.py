"""The toybox prior's networks, untrained: Stable Diffusion's pipeline classes at a size that a laptop trains.

64 x 64 images, an AutoencoderKL of factor 4 with 8 latent channels, a UNet2DConditionModel that also adds the pooled
text to its time embedding, CLIP towers with a word-level vocabulary. The text tower's pooled output and the image
tower's projection live in one space of WIDTH dimensions.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

SIZE = 64
LATENT_CHANNELS = 8  # four, as in Stable Diffusion, blur the toybox's hard edges
WIDTH = 128
PROMPT_TOKENS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.-'\""
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def word_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of some words is one token; other words fall into letters.

    The merges of a word are appended after those of earlier words, so that they rank lower and never change how an
    earlier word is merged.

    Source: byte-pair encoding as in CLIP.

    Args:
        words: The vocabulary, in the order of the token ids.

    Returns:
        A tokenizer with at most PROMPT_TOKENS tokens per prompt.
    """
    merges: list[tuple[str, str]] = []
    pieces = [piece for word in words if len(word) > 1 for piece in _merge(word, merges)]
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), ",", ",</w>", *pieces, BEGIN, END]
    table = {piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))}
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        files[0].write_text(json.dumps(table))
        files[1].write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
        return CLIPTokenizer(str(files[0]), str(files[1]), model_max_length=PROMPT_TOKENS)


def _merge(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Appends the merges that `word` still needs, and returns the pieces that its merging gives."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    found = []
    while len(pieces) > 1:
        known = [merges.index(pair) for pair in zip(pieces, pieces[1:], strict=False) if pair in merges]
        pair = merges[min(known)] if known else (pieces[0], pieces[1])
        if not known:
            merges.append(pair)
        at = next(i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == pair)
        pieces[at : at + 2] = ["".join(pair)]
        found.append(pieces[at])
    return found


def untrained_pipeline(words: Sequence[str], seed: int = 0) -> StableDiffusionPipeline:
    """The whole pipeline with random weights.

    Args:
        words: The vocabulary.
        seed: Of the weights; the global generator stays as it is.
    """
    tokenizer = word_tokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StableDiffusionPipeline(
            vae=_autoencoder(),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=_unet(),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type="v_prediction",
                # Without it the last step's noise still shows a smooth picture's layout, and the network learns to
                # trust the noise instead of the words, above all for left and right.
                rescale_betas_zero_snr=True,
                clip_sample=False,
                timestep_spacing="trailing",
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=_image_encoder(),
            requires_safety_checker=False,
        )


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 80),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,  # few: the mean that a group's normalisation hides is the picture's colour
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _image_encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIZE,
            patch_size=8,
        )
    )
