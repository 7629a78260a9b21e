"""Loading a Stable Diffusion pipeline from a folder, with errors that name what is wrong."""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from vsd.errors import InputError

EMBEDDED = Path(__file__).parent


def load_pipeline(folder: str | Path = EMBEDDED, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The pipeline saved in `folder`, by default the toybox prior that the project ships, in `dtype` on the CPU.

    InputError for a folder that is missing, is no Stable Diffusion pipeline, or holds a truncated or wrong file.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such prior folder; train one with 'make prior' or name another")
    if not index.is_file():
        raise InputError(f"{folder}: not a prior folder, model_index.json is missing; save one with save_pretrained")
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: not a pipeline index ({error}); save the pipeline anew with save_pretrained") from error
    if name != "StableDiffusionPipeline":
        raise InputError(f"{index}: holds a {name}; a StableDiffusionPipeline is needed")
    try:
        return StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except Exception as error:
        # diffusers, transformers and safetensors raise a dozen unrelated types for a damaged file.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: the prior does not load ({reason}); restore it or train it anew with 'make prior'") from error
