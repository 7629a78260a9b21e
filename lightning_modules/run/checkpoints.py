"""Checkpoints of stages: what they hold, and how they are read.

A checkpoint is Lightning's, plain tensors and Python values, with a marker: the format's version and the stage.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from common.errors import InputError
from common.files import is_intact
from lightning_modules.run.folder import LAST, PREVIOUS

FORMAT = 4  # raise it when a checkpoint's content changes so that older ones do not load
KEY = "ckpt_path"  # names a checkpoint on the command line
NEEDED = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "global_step")


def mark(checkpoint: dict, stage: pl.LightningModule) -> None:
    """Adds the marker to a checkpoint.

    Args:
        checkpoint: Changed in place.
        stage: What writes it.
    """
    checkpoint["vsd"] = {"format": FORMAT, "stage": type(stage).__name__}


def require_mark(checkpoint: Any, stage: str, path: Path | str = "the checkpoint", key: str = KEY) -> None:
    """Checks the marker of a checkpoint.

    Args:
        checkpoint: What a file holds.
        stage: Name of the stage's class.
        path: Of the file, for errors.
        key: The option that names the file, for errors.

    Raises:
        InputError: It is of another stage, another format, or none of this project.
    """
    marker = checkpoint.get("vsd") if isinstance(checkpoint, dict) else None
    if not isinstance(marker, dict) or "format" not in marker or "stage" not in marker:
        raise InputError(f"{key}: {path} is no checkpoint of a stage; name one that a run of this program wrote")
    if marker["format"] != FORMAT:
        raise InputError(
            f"{key}: {path} has format {marker['format']}, this version reads format {FORMAT}; "
            "resume with the version that wrote it, or start anew"
        )
    if marker["stage"] != stage:
        raise InputError(f"{key}: {path} is of the stage {marker['stage']}, and {stage} is needed; name another")


def require_weights(state: dict, stage: pl.LightningModule) -> None:
    """Checks that a checkpoint's parameters are those of a stage.

    Args:
        state: The checkpoint's state_dict.
        stage: Whose parameters they should be.

    Raises:
        InputError: One is missing, unknown or of another shape.
    """
    ours = stage.state_dict()
    for name in sorted(ours.keys() | state.keys()):
        here, there = (tuple(s[name].shape) if name in s else None for s in (ours, state))
        if here != there:
            words = ["missing" if shape is None else f"of shape {shape}" for shape in (there, here)]
            raise InputError(
                f"ckpt_path: {name} is {words[0]} in the checkpoint and {words[1]} in the stage; "
                "resume with the config.yaml of the run"
            )


def read_checkpoint(path: Path, stage: str, key: str = KEY) -> dict:
    """Reads a checkpoint, memory-mapped, without executing anything in it, once its checksums have been compared.

    Args:
        path: Of the file.
        stage: Name of the stage's class that must have written it.
        key: The option that names the file, for errors.

    Raises:
        InputError: It does not exist, is damaged, or is anything else.
    """
    if not path.is_file():
        raise InputError(f"{key}: {path} does not exist; name a checkpoint, such as RUN/{LAST}")
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            raise InputError(f"{key}: {path} is no checkpoint; name one that a run of this program wrote")
    before = path.with_name(PREVIOUS.name)
    other = before if path.name == LAST.name and before.is_file() else "another checkpoint"
    if not is_intact(path):
        raise InputError(f"{key}: {path} is damaged, its checksums do not fit; name {other}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{key}: {path} holds more than tensors and plain values; it was not loaded, name another"
        ) from error
    except Exception as error:
        # torch raises a dozen types for a damaged file.
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{key}: {path} is damaged ({reason}); name {other}") from error
    require_mark(checkpoint, stage, path, key)
    missing = [name for name in NEEDED if name not in checkpoint]
    if missing:
        raise InputError(f"{key}: {path} has no {', '.join(missing)}, without which no run resumes; name another")
    return checkpoint


def newest_first(paths: list[Path]) -> list[Path]:
    """Checkpoints of a run by the steps that they hold, since a clock may have been set back between two of them.

    Args:
        paths: Of the files.

    Returns:
        The files that cannot be read, which `first_good` names, then those of the most steps.
    """

    def steps(path: Path) -> tuple[float, float]:
        try:
            step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        except Exception:
            # torch raises a dozen types for a damaged file.
            step = math.inf
        return step, path.stat().st_mtime

    return sorted(paths, key=steps, reverse=True)


def first_good(paths: list[Path], stage: str) -> tuple[Path, str]:
    """The first checkpoint that can be read.

    Args:
        paths: Of checkpoints, the newest first, at least one.
        stage: Name of the stage's class that must have written it.

    Returns:
        Its path, and a warning that names the ones that cannot be read, "" where the first one can.

    Raises:
        InputError: None can be read; the error is that of the first.
    """
    refusals: list[InputError] = []
    for path in paths:
        try:
            step = read_checkpoint(path, stage)["global_step"]
        except InputError as error:
            refusals.append(error)
        else:
            reason = str(refusals[0]).rpartition(";")[0] if refusals else ""
            return path, reason and f"warning: {reason}; resuming from {path}, step {step}"
    raise refusals[0]
