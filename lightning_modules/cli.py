"""The command `vsd`: its start, its errors in one line, and the silence of the libraries."""

import logging
import os
import re
import sys
import time
import warnings

import diffusers
import huggingface_hub
import jsonargparse
import transformers
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from common.errors import InputError
from lightning_modules.command import Command, SaveConfig
from lightning_modules.run.parent import FirstRank
from lightning_modules.run.parser import MODE, OneLineParser, read_plainly, require_readable
from lightning_modules.run.ranks import LATE

ABOUT = (
    "Trains and shows the stages of the library. Further commands, each with --help: vsd gallery (pages of runs), vsd "
    "export (meshes and pictures of a run for other programs), vsd runs (a table of all runs)."
)


def run(args: list[str] | None = None) -> Command:
    """Runs a subcommand.

    Args:
        args: Its name and arguments, None for the program's.

    Returns:
        The command with its model, datamodule and trainer.
    """
    silence()
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        FirstRank.watch()
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    read_plainly()
    OneLineParser.given = sys.argv[1:] if args is None else list(args)
    require_readable(OneLineParser.given)
    return Command(
        LightningModule,
        subclass_mode_model=True,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        parser_class=OneLineParser,
        parser_kwargs={"parser_mode": MODE, "description": ABOUT},
        args=args,
    )


def main(args: list[str] | None = None) -> None:
    """Runs `vsd fit|validate|test|predict --config FILE ...`; exits with 2 and one line when an input is wrong.

    Args:
        args: Arguments of the command, None for the program's.
    """
    try:
        run(args)
    except Exception as error:
        words = fault(error)
        if words is None:
            raise
        if rank_zero_only.rank > 0:
            time.sleep(LATE)  # the first rank mostly says the same, and ends this one
            words = f"rank {rank_zero_only.rank}: {words}"
        print(f"vsd: {' '.join(words.split())}", file=sys.stderr)
        sys.exit(2)


def fault(error: BaseException) -> str | None:
    """What an error says is wrong with the input, in the words of this program or of a library.

    Args:
        error: With its causes.

    Returns:
        The message, None for a defect of the program.
    """
    cause: BaseException | None = error
    while cause is not None:  # jsonargparse wraps what a constructor raises in a ValueError of its own
        if isinstance(cause, OmegaConfBaseException):
            key = re.sub(r"init_args\.|\[\d+\]|^(fit|validate|test|predict)\.", "", cause.full_key or "")
            return f"{key or 'configuration'}: {str(cause).splitlines()[0]}"
        if isinstance(cause, InputError | MisconfigurationException) or type(cause).__module__.startswith(
            "wandb.errors"
        ):
            return str(cause)
        cause = cause.__cause__
    # Where it tries several types it keeps nothing but the words.
    _, problem, words = str(error).partition("Problem with given class_path")
    return problem + " ".join(words.splitlines()[:2]) if problem else None


def silence() -> None:
    """Silences advice that no user of this program can act on."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls, not ours
    for message in (
        "LightningCLI.s args parameter is intended to run",
        "The '.*_dataloader' does not have many workers",
        ".*isinstance.treespec, LeafSpec",
        "predict returned None if it was on purpose",  # pictures are written as they are rendered
        "You.re using the WeightAveraging callback with",
        "You.re resuming from a checkpoint that ended before the epoch",  # our streams are functions of the step
    ):
        warnings.filterwarnings("ignore", message)
    for name, words in (
        (
            "pytorch_lightning.utilities.rank_zero",
            ("litlogger", "litmodels", "detected keyboardinterrupt", "available: false", "stopped: `max_steps"),
        ),
        ("lightning_fabric.utilities.seed", ("seed set to",)),
        ("pytorch_lightning.trainer.connectors.signal_connector", ("received sigterm",)),
        ("transformers.utils.import_utils", ("requires torchvision",)),
    ):
        logging.getLogger(name).addFilter(
            lambda record, words=words: not any(w in str(record.msg).lower() for w in words)
        )
    # The bars of files that are read; those of downloads stay.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()


if __name__ == "__main__":
    main()
