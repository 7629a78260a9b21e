"""What no option of a run may be, whatever its key: not finite, a seed out of range, a size or a path too large."""

import errno
import math
import os
import pydoc
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytorch_lightning as pl
from jsonargparse import Namespace

from common.checks import require_range
from common.errors import InputError

LARGEST = 10**9  # of integers
LIGHTNING = ("pytorch_lightning", "lightning", "lightning_fabric")  # whose classes say None where they take none
SEEDS = 2**32 - 1  # the largest seed that numpy takes


def options(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a configuration.

    Args:
        config: Of a subcommand.
        key: Of what it is a part of.

    Yields:
        Key, as one writes it on the command line, and value.
    """
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, dict):
        for name, value in config.items():
            name = "" if name == "init_args" else str(name)
            yield from options(value, ".".join(filter(None, (key, name))))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from options(value, key)
    else:
        yield key, config


def require_sane(config: Namespace) -> None:
    """Checks all options of a subcommand, before anything is built or written.

    Args:
        config: Of the subcommand.

    Raises:
        InputError: One of them is impossible for any key of its kind.
    """
    given = {name: part for name, part in vars(config).items() if name != "config"}
    require_values(given)
    for key, value in options(given):
        if isinstance(value, bool) or value is None:
            continue
        if key.rpartition(".")[2] in ("seed", "seed_everything"):
            require_range(key, value, 0, SEEDS)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key}: {value} is not finite")
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise InputError(f"{key}: {value} is beyond {LARGEST}")
        elif isinstance(value, str) and "\0" in value:
            raise InputError(f"{key}: it holds a null character")
        elif isinstance(value, str) and len(value) > 255 and key.rpartition(".")[2] not in ("prompt", "negative"):
            require_short(key, value)
    for key, least in (("num_nodes", 1), ("log_every_n_steps", 1), ("max_epochs", -1), ("gradient_clip_val", 0)):
        require_range(f"trainer.{key}", config.trainer.get(key), least)
    for key in ("max_epochs", "val_check_interval", "check_val_every_n_epoch"):
        if config.trainer.get(key) == 0:
            raise InputError(f"trainer.{key}: 0 of them is none; leave it out, or name more")
    paths = {"trainer.default_root_dir": config.trainer.default_root_dir, "ckpt_path": config.get("ckpt_path")}
    for key, value in paths.items():
        if value == "":
            raise InputError(f"{key}: it is empty; leave it out, or name a path")


def require_values(config: Any, kind: Any = None, key: str = "") -> None:
    """Checks that null stands for no option that needs a value, which jsonargparse lets in.

    Args:
        config: Of a subcommand, or a part of it.
        kind: The class that the part builds; None for what its class_path names.
        key: Of the part.

    Raises:
        InputError: One has none.
    """
    if isinstance(config, list):
        for part in config:
            require_values(part, kind, key)
    values = vars(config) if isinstance(config, Namespace) else config if isinstance(config, dict) else {}
    if isinstance(values.get("class_path"), str):
        return require_values(values.get("init_args"), pydoc.locate(values["class_path"]), key)
    known = isinstance(kind, type) and (kind is pl.Trainer or kind.__module__.partition(".")[0] not in LIGHTNING)
    hints = get_type_hints(kind.__init__) if known else {}
    for name, value in values.items():
        whole, hint = f"{key}.{name}" if key else name, hints.get(name, Any)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and hint is not Any and type(None) not in kinds:
            raise InputError(f"{whole}: null; a value is needed")
        inner = [part for one in kinds for part in (one, *get_args(one)) if is_dataclass(part)]
        require_values(value, pl.Trainer if whole == "trainer" else inner[0] if inner else None, whole)


def require_stage_trains(config: Namespace) -> None:
    """Checks the options of the trainer with which stages are trained.

    Args:
        config: Of the subcommand fit.

    Raises:
        InputError: No step would be made, or the particles would be rounded.
    """
    require_range("trainer.max_steps", config.trainer.max_steps, 1)
    if config.trainer.precision in ("bf16-true", "transformer-engine"):
        raise InputError(
            f"trainer.precision: {config.trainer.precision} rounds the particles; use bf16-mixed or 32-true"
        )


def require_short(key: str, text: str) -> None:
    """Checks that a text, should it be a path, is one that the system knows to look up.

    Args:
        key: Of the option.
        text: Its value.

    Raises:
        InputError: It is too long.
    """
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{key}: a path of {len(text)} characters is too long") from error
