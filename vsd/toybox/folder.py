"""Loading a text-to-image pipeline from a folder, with errors that name what is wrong."""

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from vsd.errors import InputError

TOYBOX = "toybox"  # the name of the embedded prior
EMBEDDED = Path(__file__).parent
UNET = "UNet2DConditionModel"


def load_pipeline(folder: str | Path = TOYBOX, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """The pipeline saved in `folder`, or for "toybox" the prior that the project ships, in `dtype` on the CPU.

    InputError for a folder that is missing, is no pipeline around a UNet2DConditionModel, or holds a truncated or
    wrong file.
    """
    folder = EMBEDDED if folder == TOYBOX else Path(folder)
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such prior folder; train one with 'make prior' or name another")
    if not index.is_file():
        raise InputError(f"{folder}: not a prior folder, model_index.json is missing; save one with save_pretrained")
    try:
        parts = dict(json.loads(index.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{index}: not a pipeline index ({error}); save the pipeline anew") from error
    if parts.get("unet") != ["diffusers", UNET]:
        raise InputError(f"{index}: holds a {parts.get('_class_name')} without a {UNET}, which a prior needs")
    try:
        return DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except Exception as error:
        # diffusers, transformers and safetensors raise a dozen unrelated types for a damaged file.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: the prior does not load ({reason}); restore it or train it anew") from error
