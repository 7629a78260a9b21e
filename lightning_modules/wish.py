"""What `dream` was asked for, and the options of `vsd fit` that follow from it."""

import json
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import yaml

from common.checks import require_range
from common.errors import InputError
from common.yaml_text import require_plain
from lightning_modules.run.place import Place
from lightning_modules.run.time_left import Part

# Where in configs/ the stages' files are.
PRESETS = {
    "toybox": "toybox/",
    "toybox-best": "toybox-best/",
    "sd21": "",
    "paper": "paper/",
    "threestudio": "threestudio/",
}
STAGES = ("nerf", "geometry", "texture")  # in the order in which they run
MESHES = {"toybox": "toybox/mesh", "sd21": "mesh", "threestudio": "threestudio/texture"}  # files for a given mesh
LARGEST = 10_000  # particles
CONFIG_FLAGS = ("-c", "--config")
KINDS = {str: "text", int: "whole number", list: "list of options"}


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Args:
        prompt: The object.
        preset: Whose configurations the stages use, one of PRESETS.
        particles: Number of objects, >= 1; each makes as many steps as the preset gives one.
        seed: Of everything random, >= 0.
        overrides: Options of `vsd fit` for every stage, after those of the preset.
        mesh: File of a mesh that is textured in the place of the first two stages; None for none.

    Raises:
        InputError: One of them is impossible.
    """

    prompt: str
    preset: str = "toybox"
    particles: int = 1
    seed: int = 0
    overrides: list[str] = field(default_factory=list)
    mesh: str | None = None

    def __post_init__(self):
        if not isinstance(self.mesh, str | None):
            raise InputError(f"mesh: {self.mesh!r} is no text")
        for name, kind in (("prompt", str), ("preset", str), ("particles", int), ("seed", int), ("overrides", list)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name}: {getattr(self, name)!r} is no {KINDS[kind]}")
        if not self.prompt.strip():
            raise InputError("prompt: it is empty; say what to make, for example 'a red mushroom'")
        if "${" in self.prompt:
            raise InputError("prompt: it holds '${', which configurations fill in; leave it out")
        if self.preset not in PRESETS:
            raise InputError(f"--preset: '{self.preset}' is not one of {', '.join(PRESETS)}")
        if self.mesh is not None and self.preset not in MESHES:
            raise InputError(f"--mesh: the preset '{self.preset}' textures no given mesh; use {', '.join(MESHES)}")
        require_range("--particles", self.particles, 1, LARGEST)
        require_range("--seed", self.seed, 0, 2**32 - 1)
        self.ranks()

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that run, in order."""
        return STAGES if self.mesh is None else STAGES[-1:]

    def ranks(self) -> int:
        """Devices of all nodes together, as the overrides say.

        Raises:
            InputError: They name no number of devices; the number of steps depends on it.
        """
        given = of_trainer(self.overrides, {"devices": 1, "num_nodes": 1})
        for key, number in given.items():
            if type(number) is not int or number < 1:
                raise InputError(f"--trainer.{key}: '{number}'; dream needs a number, on which the steps depend")
        return given["devices"] * given["num_nodes"]


def of_trainer(options: list[str], given: dict) -> dict:
    """Options of the trainer as a command line gives them, in its own words or in configuration files.

    Args:
        options: Of `vsd fit`.
        given: What is looked for, with the values where nothing is said.

    Raises:
        InputError: A configuration file cannot be read.
    """
    given = dict(given)
    for option, value in zip(options, [*options, ""][1:], strict=True):
        if option in CONFIG_FLAGS:
            try:
                text = Path(value).read_text(encoding="utf-8")
                require_plain(text, f"{option}: {value}")
                read = yaml.safe_load(text) or {}
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise InputError(f"{option}: {value} cannot be read; name a configuration file") from error
            trainer = read.get("trainer") if isinstance(read, dict) else None
            given |= {key: n for key, n in (trainer or {}).items() if key in given}
        name, equals, rest = option.partition("=")
        key = name.removeprefix("--trainer.")
        if name.startswith("--trainer.") and key in given:
            given[key] = yaml.safe_load(rest if equals else value)
    return given


def config_of(preset: str, stage: str, given_mesh: bool = False) -> Path:
    """The configuration of a preset's stage: in the repository, or where an installed package has put it.

    Args:
        preset: One of PRESETS.
        stage: One of STAGES.
        given_mesh: Whether the stage textures the mesh of a file.

    Raises:
        InputError: It is not installed.
    """
    return config_file(MESHES[preset] if given_mesh else f"{PRESETS[preset]}{stage}", "--preset")


def config_file(name: str, key: str) -> Path:
    """A configuration of the project: in the repository, or where an installed package has put it.

    Args:
        name: Below configs, without its ending.
        key: The option that asks for it, for errors.

    Raises:
        InputError: It is not installed.
    """
    file = Path("configs") / f"{name}.yaml"
    here = Path(__file__).parents[1] / file
    if here.exists():
        return here
    installed = [one for one in metadata.files("prolific") or [] if Path(*one.parts[-len(file.parts) :]) == file]
    if not installed:
        raise InputError(f"{key}: {file} is not installed; reinstall the package")
    return Path(installed[0].locate()).resolve()


def steps_of(wish: Wish, given: dict, of_preset: int) -> int:
    """The trainer's steps in which every particle makes as many as in the preset.

    Args:
        wish: What was asked for.
        given: The preset's configuration of a stage.
        of_preset: The trainer's steps there.
    """
    before = given["model"]["init_args"].get("particles", 1)
    return of_preset * -(-wish.particles // wish.ranks()) // before  # particles that a rank trains


def options_of(wish: Wish, stage: str) -> list[str]:
    """The options of `vsd fit` that start a stage.

    Args:
        wish: What was asked for.
        stage: One of STAGES.
    """
    config = config_of(wish.preset, stage, wish.mesh is not None)
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    milestones = [m | {"step": steps_of(wish, given, m["step"])} for m in given["data"]["init_args"]["milestones"]]
    steps = steps_of(wish, given, given["trainer"]["max_steps"])
    return [
        *("--config", str(config), f"--prompt={wish.prompt}", f"--seed_everything={wish.seed}"),
        *(f"--model.particles={wish.particles}", f"--trainer.max_steps={steps}"),
        f"--data.milestones={json.dumps(milestones)}",
        *([] if wish.mesh is None else [f"--model.mesh={wish.mesh}"]),
        *wish.overrides,
    ]


def parts_of(wish: Wish, stage: str, more: list[str]) -> list[Part]:
    """What a stage does, as far as it follows from its configuration, for the time left.

    Args:
        wish: What was asked for.
        stage: One of STAGES.
        more: Further options of `vsd fit`.
    """
    given = yaml.safe_load(config_of(wish.preset, stage, wish.mesh is not None).read_text(encoding="utf-8"))
    total = of_trainer([*options_of(wish, stage), *more], {"max_steps": 0})["max_steps"]
    if type(total) is not int or total < 1:
        return []  # which the stage refuses
    guidance = given["trainer"]["callbacks"][0]["init_args"]
    if guidance.get("kind", "vsd") not in ("vsd", "esd"):
        return [Part(total, phi=False)]
    warm = min(total, steps_of(wish, given, guidance.get("score", {}).get("warm_start", 0)))
    return [Part(warm, phi=False), Part(total - warm, phi=True)]


def place_of(wish: Wish, stage: str, more: dict[str, list[str]], quiet: bool = False) -> Place:
    """Where a stage stands among those of a run, for its progress.

    Args:
        wish: What was asked for.
        stage: One of its stages.
        more: Further options of `vsd fit`, by stage.
        quiet: Whether no progress is told.
    """
    number = wish.stages.index(stage)
    parts = [parts_of(wish, name, more.get(name, [])) for name in wish.stages]
    before = sum(part.steps for one in parts[:number] for part in one)
    after = [part for one in parts[number + 1 :] for part in one]
    return Place(stage, number + 1, len(wish.stages), before, after, quiet)
