"""Whatever the command line builds tells what each of its options does."""

import dataclasses
import inspect
import re
import typing

import jsonargparse
import pytest
import pytorch_lightning as pl
from broken_lines import COMMANDS, parser_of

from datamodules.random_cameras import CameraDistribution, Milestone, RandomCameras
from lightning_modules.cli import Command, OneLineParser
from lightning_modules.geometry import GeometryStage, SurfaceLosses
from lightning_modules.image import ImageStage
from lightning_modules.nerf import FieldSettings, NerfStage
from lightning_modules.regularisers import Regularisers
from lightning_modules.run.heartbeat import Heartbeats
from lightning_modules.run.loggers import MetricsFile
from lightning_modules.run.progress import StepLines
from lightning_modules.run.saving import LastCheckpoint
from lightning_modules.run.viewer import Viewer
from lightning_modules.texture import TextureStage
from vsd.guidance import VSDGuidance
from vsd.savings import Savings
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps
from vsd.views import Sector, ViewSectors

BUILT = [NerfStage, GeometryStage, TextureStage, ImageStage, RandomCameras, VSDGuidance]
BUILT += [Heartbeats, LastCheckpoint, MetricsFile, StepLines, Viewer]
NESTED = {
    NerfStage: {FieldSettings, Regularisers},
    GeometryStage: {SurfaceLosses},
    TextureStage: {FieldSettings},
    RandomCameras: {CameraDistribution, Milestone},
    VSDGuidance: {Timesteps, ScoreSettings, ViewSectors, Sector, Savings},
}


def nested(kind: type) -> set[type]:
    """The dataclasses that the options of a class are of, and those inside them."""
    found = set()

    def look(annotation: object) -> None:
        if dataclasses.is_dataclass(annotation):
            found.add(annotation)
            find(annotation)
        for part in typing.get_args(annotation):
            look(part)

    def find(owner: type) -> None:
        for annotation in typing.get_type_hints(owner.__init__).values():
            look(annotation)

    find(kind)
    return found


def undescribed(parser: jsonargparse.ArgumentParser) -> set[str]:
    """The options of a parser, its subcommands included, that have no description."""
    missing = set()
    for action in parser._actions:
        for name, choice in (getattr(action, "_name_parser_map", None) or {}).items():
            missing |= {f"{name} {option}" for option in undescribed(choice)}
        if not action.help and not hasattr(action, "_name_parser_map"):
            missing.add(action.dest)
    return missing


def documented() -> list[type]:
    return [kind for owner in BUILT for kind in (owner, *sorted(nested(owner), key=lambda k: k.__name__))]


@pytest.mark.parametrize("owner", NESTED)
def test_the_nested_settings_are_found(owner):
    assert nested(owner) == NESTED[owner]


@pytest.mark.parametrize("kind", documented())
def test_every_option_of_a_class_has_a_description(kind):
    parser = OneLineParser()
    options = [name for name in inspect.signature(kind).parameters]
    parser.add_class_arguments(kind, "it", fail_untyped=False)
    assert {f"it.{name}" for name in options} <= {action.dest for action in parser._actions}
    assert not undescribed(parser)


def test_a_class_without_descriptions_is_noticed():
    class Silent:
        """Says nothing of its options."""

        def __init__(self, size: int = 1):
            pass

    parser = OneLineParser()
    parser.add_class_arguments(Silent, "it")
    assert undescribed(parser) == {"it.size"}


def test_every_option_of_the_command_has_a_description(monkeypatch):
    """Those of Lightning's Trainer, of `prompt` and of `checkpoint`, in all subcommands."""
    parsers = []
    monkeypatch.setattr(Command, "parse_arguments", lambda command, parser, args: parsers.append(parser) or exit())
    with pytest.raises(SystemExit):
        Command(
            pl.LightningModule, subclass_mode_model=True, parser_class=OneLineParser,
            parser_kwargs={"parser_mode": "omegaconf+"}, args=[],
        )  # fmt: skip
    (parser,) = parsers
    commands = next(a._name_parser_map for a in parser._actions if getattr(a, "_name_parser_map", None))
    assert {"fit", "validate", "test", "predict"} <= commands.keys()
    assert {"prompt", "checkpoint.every", "trainer.max_steps"} <= {a.dest for a in commands["fit"]._actions}
    assert not undescribed(parser)


BENCHMARKS = ["gpu_check", "guidance_step", "hashgrid", "mesh_render", "render_cost", "switch_effect", "view_cost"]


@pytest.mark.parametrize(
    "module", [*(module for module, _ in COMMANDS.values()), *map("benchmarks.{}".format, BENCHMARKS)]
)
def test_every_argument_of_the_other_commands_has_a_description(module):
    bare = re.compile(r"\W*(\(default: .*\))?\W*")
    actions = parser_of(module)._actions
    assert not [action.dest for action in actions if bare.fullmatch(action.help or "")]
