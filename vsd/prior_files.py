"""What may be wrong with the files of a prior: flipped bits, files cut short, weights that are not finite."""

import shlex
from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from common.errors import InputError
from common.files import SUMS, require_checksums
from common.finite import first_not_finite

LFS = b"version https://git-lfs"  # the first bytes of a pointer


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
