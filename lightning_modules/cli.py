"""The command `vsd`: LightningCLI with interpolation across files, and input errors in one line."""

import logging
import os
import sys
import warnings
from typing import NoReturn

import jsonargparse
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from vsd.errors import InputError


class OneLineParser(LightningArgumentParser):
    """Says in one line what is wrong with the arguments, without the usage and the list of tried types."""

    NOISE = ("Does not validate", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value", "Parser key")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        key = [line.strip() for line in message.splitlines() if line.startswith("Parser key")]
        rest = [line.strip(" -") for line in message.splitlines() if not line.strip(" -").startswith(self.NOISE)]
        print(f"vsd: {' '.join([*key, *filter(None, rest)])[:500]}", file=sys.stderr)
        sys.exit(2)


class Command(LightningCLI):
    """LightningCLI with a top-level `prompt`, which configurations hand on as ${prompt}."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--prompt", type=str | None, default=None, help="what to make")


def run(args: list[str] | None = None) -> Command:
    """Runs a subcommand with its arguments, by default the program's, and returns it with its model and trainer."""
    quiet()
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return Command(
        LightningModule,
        subclass_mode_model=True,
        save_config_kwargs={"overwrite": True},
        parser_class=OneLineParser,
        parser_kwargs={"parser_mode": "omegaconf+"},
        args=args,
    )


def main(args: list[str] | None = None) -> None:
    """Runs `vsd fit|validate|test|predict --config FILE ...`; exits with 2 and one line when an input is wrong."""
    try:
        run(args)
    except Exception as error:
        # jsonargparse wraps what a constructor raises in a ValueError of its own.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is None:
            raise
        print(f"vsd: {cause}", file=sys.stderr)
        sys.exit(2)


def quiet() -> None:
    """Silences advice that no user of this program can act on."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls, not ours
    for message in (
        "LightningCLI.s args parameter is intended to run",
        "The '.*_dataloader' does not have many workers",
        ".*isinstance.treespec, LeafSpec",
        "You.re using the WeightAveraging callback with",
        "You.re resuming from a checkpoint that ended before the epoch",  # our streams are functions of the step
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in str(record.msg).lower() and "litmodels" not in str(record.msg).lower()
    )


if __name__ == "__main__":
    main()
