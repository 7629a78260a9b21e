"""A stage's configuration and its run folder: which folder, from which checkpoint, and what is written into it."""

import os
import secrets
from netrc import NetrcParseError, netrc
from pathlib import Path

import yaml
from jsonargparse import Namespace
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from common.errors import InputError
from lightning_modules.run.checkpoints import first_good, newest_first
from lightning_modules.run.folder import CONFIG, LAST, PREVIOUS, RunFolder, checkpoints, requeued

METRICS = "lightning_modules.run.loggers.MetricsFile"


def choose(config: Namespace, fit: bool) -> tuple[RunFolder, Path | None]:
    """Chooses the run folder and the checkpoint of a subcommand.

    trainer.default_root_dir names the folder. Without it, `ckpt_path: last` means the run in whose folder the
    configuration file lies, RUN/config.yaml; `ckpt_path: RUN/checkpoints/last.ckpt` means RUN; a run from the start
    gets a fresh folder. 'last' is the newest checkpoint of the run that can be read; where that is not the newest one,
    a line says so.

    Args:
        config: Of the subcommand.
        fit: Whether the subcommand trains.

    Returns:
        The folder, and the checkpoint to start from, None for a run from the start.

    Raises:
        InputError: No run is meant, the checkpoint does not fit, or a run from the start would write into the folder
            of another.
    """
    given, word = config.trainer.default_root_dir, config.get("ckpt_path")
    path = None if given is None else Path(given)
    records = [Path(file.absolute) for file in config.get("config") or [] if Path(file.absolute).name == CONFIG]
    candidates: list[Path] = []  # of which the first good one is taken
    if word == "last":
        if path is None and len(records) != 1:
            raise InputError(
                "ckpt_path: 'last' of which run? Say --config RUN/config.yaml or --trainer.default_root_dir RUN"
            )
        path = path or records[0].parent
        candidates = [file for file in (path / LAST, path / PREVIOUS) if file.exists()]
        if not candidates and not (path / CONFIG).exists():
            candidates = [path / LAST]  # else stopped before the first one: there is nothing to lose
    elif word is not None:
        candidates = [Path(word).expanduser().absolute()]
        if path is None and (candidates[0].parent.parent / CONFIG).exists():
            path = candidates[0].parent.parent
    elif not fit:
        raise InputError("ckpt_path: it is missing; name a checkpoint, or say 'last' with --config RUN/config.yaml")
    folder = RunFolder(path, config.get("prompt"))
    if word is None and requeued():
        candidates = newest_first(checkpoints(folder.path))
    elif fit and not candidates and not folder.fresh and checkpoints(folder.path):
        raise InputError(
            f"trainer.default_root_dir: {folder.path} holds a run; resume it with --ckpt_path last, or name another"
        )
    for record in {*records, *([folder.path / CONFIG] if candidates else [])}:
        _require_record(record, config, whole=bool(candidates) and record == folder.path / CONFIG)
    if not candidates:
        return folder, None
    checkpoint, warning = first_good(candidates, config.model.class_path.rpartition(".")[2])
    if warning and rank_zero_only.rank == 0:
        print(warning, flush=True)
    return folder, checkpoint


def _require_record(record: Path, config: Namespace, whole: bool) -> None:
    """InputError where the configuration has another prompt or seed than the record of a run, which repeats both.

    whole: Also where the record is not one that a run has written to its end.
    """
    if not record.exists():
        return
    try:
        recorded = yaml.safe_load(record.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        recorded = None
    if not isinstance(recorded, dict) or (whole and "ckpt_path" not in recorded):
        raise InputError(f"--config: {record}, the record of the run, is damaged; restore it, or start anew")
    for key in ("prompt", "seed_everything"):
        if key in recorded and recorded[key] != config.get(key):
            raise InputError(
                f"{key}: {record} is of a run with {recorded[key]!r} and repeats that below; keep it, or start anew "
                "from the file that the run was started with"
            )


def place(config: Namespace, folder: Path, checkpoint: Path | None) -> Namespace:
    """A copy of the configuration that writes into the run folder and starts from the checkpoint.

    Relative save_dir of loggers and dirpath of callbacks lie below the folder; without a logger, metrics go to a file.

    Args:
        config: Of a subcommand.
        folder: Of the run.
        checkpoint: To start from, None for the start.
    """
    config = config.clone()
    trainer = config.trainer
    trainer.default_root_dir = str(folder)
    if trainer.logger is None or trainer.logger is True:
        trainer.logger = Namespace(class_path=METRICS, init_args=Namespace(save_dir="."))
    for part in _parts(trainer.logger) + _parts(trainer.callbacks):
        arguments = part.get("init_args", Namespace())
        for key, default in (("save_dir", "."), ("dirpath", LAST.parent)):
            if key in arguments:
                arguments[key] = str(folder / (arguments[key] or default))
    config.ckpt_path = None if checkpoint is None else str(checkpoint)
    return config


def set_wandb_id(config: Namespace, folder: Path) -> None:
    """Gives a WandbLogger without an id that of this run at wandb, which config.yaml keeps.

    Args:
        config: Of a subcommand, changed in place.
        folder: Of the run.
    """
    unnamed = [
        part.init_args
        for part in _parts(config.trainer.logger)
        if _is_wandb(part.class_path) and part.init_args.id is None and part.init_args.version is None
    ]
    record = folder / CONFIG
    before = yaml.safe_load(record.read_text())["trainer"]["logger"] if unnamed and record.exists() else None
    ids = [part["init_args"].get("id") for part in _as_list(before) if _is_wandb(part["class_path"])]
    for arguments in unnamed:
        # The letter, which no number has: 1e345678 would be read back from config.yaml as one.
        arguments.id = next(filter(None, ids), "r" + secrets.token_hex(4)[1:])


def hide_places() -> None:
    """Has wandb keep to itself where the program and the run lie on this machine, unless its variables say otherwise.

    They are in what it calls metadata, and in the console's lines, both of which it would upload.
    """
    os.environ.setdefault("WANDB_X_DISABLE_META", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")


def log_offline(config: Namespace) -> bool:
    """Has WandbLoggers write to the disk alone where nobody is logged in at wandb and WANDB_MODE says nothing.

    Args:
        config: Of a subcommand, changed in place.

    Returns:
        Whether one of them does so now.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") or _logged_in():
        return False
    loggers = [part.init_args for part in _parts(config.trainer.logger) if _is_wandb(part.class_path)]
    online = [arguments for arguments in loggers if not arguments.offline]
    for arguments in online:
        arguments.offline = True
    return bool(online)


def _logged_in() -> bool:
    """Whether `wandb login` has left a key."""
    try:
        return netrc(os.environ.get("NETRC")).authenticators("api.wandb.ai") is not None
    except (OSError, NetrcParseError):
        return False


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value] if value else []


def _parts(value) -> list[Namespace]:
    """Loggers or callbacks of a configuration; True and False are none."""
    return [part for part in _as_list(value) if isinstance(part, Namespace)]


def _is_wandb(class_path: str) -> bool:
    return class_path.rpartition(".")[2] == "WandbLogger"
