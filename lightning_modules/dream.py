"""The command `dream`: from a prompt to an object, through all stages, in one folder.

dream "a red mushroom" [--preset toybox] [--particles 1] [--seed 0] [--out FOLDER] [--log wandb] [-- OPTIONS]
dream "a red mushroom" --mesh FILE [...]
dream --resume FOLDER

With --mesh the texture stage alone runs, on the mesh of that file.
Every stage is a run of `vsd` in a folder of its own, FOLDER/STAGE; OPTIONS go to the `vsd fit` of each, such as
`-- --trainer.devices 4 -c configs/loggers/wandb.yaml`. FOLDER/dream.yaml holds what was asked for; a stage that has
finished leaves FOLDER/STAGE/finished and is not run again. FOLDER/STAGE/seconds holds how long it took.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from time import monotonic

import yaml

from common.checks import require_range
from common.command_line import OneLineArguments, a_path
from common.errors import InputError
from common.files import atomic_write
from common.yaml_text import require_plain
from lightning_modules.run.folder import CONFIG, DREAM, LAST, PLACE, RunFolder, resume_command
from lightning_modules.run.parent import die_with_parent

# Where in configs/ the stages' files are.
PRESETS = {"toybox": "toybox/", "sd21": "", "paper": "paper/", "threestudio": "threestudio/"}
STAGES = ("nerf", "geometry", "texture")  # in the order in which they run
LOGGERS = ("wandb", "tensorboard")  # files of configs/loggers
MESHES = {"toybox": "toybox/mesh", "sd21": "mesh", "threestudio": "threestudio/texture"}  # files for a given mesh
LARGEST = 10_000  # particles
FINISHED = "finished"
SECONDS = "seconds"  # of a stage, those before it was resumed included
CONFIG_FLAGS = ("-c", "--config")
KINDS = {str: "text", int: "whole number", list: "list of options"}
EPILOG = "What follows `--` goes to the `vsd fit` of every stage: -- --trainer.devices 4 -c configs/loggers/wandb.yaml"


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
        given = {"devices": 1, "num_nodes": 1}
        for option, value in zip(self.overrides, [*self.overrides, ""][1:], strict=True):
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
        for key, number in given.items():
            if type(number) is not int or number < 1:
                raise InputError(f"--trainer.{key}: '{number}'; dream needs a number, on which the steps depend")
        return given["devices"] * given["num_nodes"]


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


def options_of(wish: Wish, stage: str) -> list[str]:
    """The options of `vsd fit` that start a stage.

    Args:
        wish: What was asked for.
        stage: One of STAGES.
    """
    config = config_of(wish.preset, stage, wish.mesh is not None)
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    before = given["model"]["init_args"].get("particles", 1)
    particles = -(-wish.particles // wish.ranks())  # that a rank trains

    def steps(of_preset: int) -> int:
        """The trainer's steps in which every particle makes as many as in the preset."""
        return of_preset * particles // before

    milestones = [m | {"step": steps(m["step"])} for m in given["data"]["init_args"]["milestones"]]
    return [
        *("--config", str(config), f"--prompt={wish.prompt}", f"--seed_everything={wish.seed}"),
        *(f"--model.particles={wish.particles}", f"--trainer.max_steps={steps(given['trainer']['max_steps'])}"),
        f"--data.milestones={json.dumps(milestones)}",
        *([] if wish.mesh is None else [f"--model.mesh={wish.mesh}"]),
        *wish.overrides,
    ]


def handed_on(stage: str, folder: Path) -> list[str]:
    """The options of `vsd` that name the runs of the previous stages.

    Args:
        stage: One of STAGES.
        folder: FOLDER, of the whole run.
    """
    before = [name for name in STAGES[: STAGES.index(stage)] if (folder / name).is_dir()]  # none for a given mesh
    return [f"--model.{name}={folder / name}" for name in before]


def run_stage(wish: Wish, stage: str, folder: Path, more: list[str]) -> int:
    """Runs a stage in FOLDER/STAGE, or resumes it, with the overrides that its record holds.

    Args:
        wish: What was asked for.
        stage: One of STAGES.
        folder: FOLDER, of the whole run.
        more: Further options of `vsd fit`.

    Returns:
        The exit code of `vsd`.
    """
    record = folder / stage / CONFIG
    # The previous stages are named anew when a run resumes: it may have been moved.
    more = [*handed_on(stage, folder), *more]
    if record.exists():
        options = ["--config", str(record), "--ckpt_path", "last"]
    else:
        options = [*options_of(wish, stage), f"--trainer.default_root_dir={folder / stage}"]
    # A process of its own, so that the next stage has all the memory. Ctrl-C reaches it from the terminal. Modules in
    # the working directory are none of its business.
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", *options, *more]
    place = f"{wish.stages.index(stage) + 1}/{len(wish.stages)} {stage}"
    environment = os.environ | {"PYTHONSAFEPATH": "1", PLACE: place}
    # Windows refuses the option, and it is Linux alone that knows what to do.
    first = partial(die_with_parent, os.getpid()) if sys.platform == "linux" else None
    process = subprocess.Popen(command, env=environment, preexec_fn=first)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
        return code if code >= 0 else 128 - code  # as a shell says it
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def dream(wish: Wish, folder: Path, more: dict[str, list[str]] | None = None) -> int:
    """Runs the stages that have not finished yet.

    Args:
        wish: What was asked for.
        folder: Of the run.
        more: Further options of `vsd fit`, by stage.

    Returns:
        An exit code.
    """
    seconds = {}
    for stage in wish.stages:
        if not (folder / stage / FINISHED).exists():
            start = monotonic()
            code = run_stage(wish, stage, folder, (more or {}).get(stage, []))
            spent = monotonic() - start
            add_seconds(folder / stage, spent)
            if code:
                return code
            (folder / stage / FINISHED).touch()
            seconds[stage] = spent
    if seconds:
        parts = ", ".join(f"{stage} {time:.0f} s" for stage, time in seconds.items())
        print(f"{parts}; {sum(seconds.values()):.0f} s in all")
    for stage in wish.stages:
        for file in sorted([*(folder / stage).glob("*.*"), folder / stage / LAST]):
            print(os.path.relpath(file))
    return 0


def add_seconds(folder: Path, seconds: float) -> None:
    """Adds to the time that a stage has taken.

    Args:
        folder: Of the stage; where there is none, the stage came to nothing and nothing is written.
        seconds: What to add.
    """
    if folder.is_dir():
        before = float((folder / SECONDS).read_text()) if (folder / SECONDS).exists() else 0.0
        with atomic_write(folder / SECONDS) as part:
            part.write_text(f"{before + seconds:.1f}\n")


def recorded(folder: Path) -> Wish:
    """Reads what was asked for in a run.

    Args:
        folder: Of the run.

    Raises:
        InputError: There is no run, or its record is damaged.
    """
    file = folder / DREAM
    if not file.is_file():
        raise InputError(f"--resume: {folder} is no run of dream, {DREAM} is missing; name the folder that it printed")
    try:
        text = file.read_text(encoding="utf-8")
        require_plain(text, f"--resume: {file}")
        return Wish(**yaml.safe_load(text))
    except (TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--resume: {file} is damaged; restore it, or start anew") from error


def parse(args: list[str] | None) -> tuple[Wish, RunFolder, bool]:
    """Parses the command line.

    Args:
        args: Arguments of the command, None for the program's.

    Returns:
        What is asked for, the folder, and whether a run in it is resumed.

    Raises:
        InputError: The arguments are impossible.
    """
    args = sys.argv[1:] if args is None else args
    split = args.index("--") if "--" in args else len(args)
    args, overrides = args[:split], absolute_configs(args[split + 1 :])
    parser = OneLineArguments(prog="dream", description=__doc__.splitlines()[0], epilog=EPILOG)
    parser.add_argument("prompt", nargs="?", help="what to make, such as 'a red mushroom'")
    parser.add_argument("--preset", help=f"{', '.join(PRESETS)} (default: {Wish.preset})")
    parser.add_argument("--particles", type=int, help=f"how many objects (default: {Wish.particles})")
    parser.add_argument("--seed", type=int, help=f"of everything random (default: {Wish.seed})")
    parser.add_argument("--mesh", type=a_path, metavar="FILE", help="texture this GLB, OBJ, PLY or STL file alone")
    parser.add_argument("--out", type=a_path, help="a new folder for the run (default: runs/PROMPT/TIME)")
    parser.add_argument("--log", choices=LOGGERS, help="show numbers, pictures and meshes there too")
    parser.add_argument("--resume", type=a_path, metavar="FOLDER", help="resume the run in this folder")
    options = parser.parse_args(args)
    others = ("out", "resume", "log")
    given = {key: value for key, value in vars(options).items() if value is not None and key not in others}
    if options.log is not None:
        overrides = ["--config", str(config_file(f"loggers/{options.log}", "--log")), *overrides]
    if options.mesh is not None:
        given["mesh"] = str(options.mesh.expanduser().absolute())
    if overrides:
        given["overrides"] = overrides
    if options.resume is None:
        if options.mesh is not None and not options.mesh.is_file():
            raise InputError(f"--mesh: {options.mesh} is no file; name a GLB, OBJ, PLY or STL file")
        wish = Wish(**{"prompt": "", **given})
        if options.out is not None and options.out.is_dir() and any(options.out.iterdir()):
            raise InputError(f"--out: {options.out} is not empty; name a new folder, or --resume a run")
        return wish, RunFolder(options.out, wish.prompt, "--out"), False
    if options.out is not None:
        raise InputError("--out: a run is resumed in its own folder; leave it out")
    wish = recorded(options.resume)
    for key, value in given.items():
        if value != getattr(wish, key):
            raise InputError(f"{key}: {options.resume} was started with {getattr(wish, key)!r}; leave it out")
    return wish, RunFolder(options.resume, None, "--resume"), True


def absolute_configs(overrides: list[str]) -> list[str]:
    """Overrides whose configuration files have absolute paths, so that a run resumes from any folder.

    Args:
        overrides: Options of `vsd fit`.

    Raises:
        InputError: A file does not exist.
    """
    overrides = [part for o in overrides for part in (o.split("=", 1) if o.startswith("--config=") else [o])]
    for i, option in enumerate(overrides):
        if i and overrides[i - 1] in CONFIG_FLAGS:
            path = Path(option).expanduser().absolute()
            if not path.is_file():
                raise InputError(f"{overrides[i - 1]}: {option} does not exist; name a configuration file")
            overrides[i] = str(path)
    return overrides


def main(
    args: list[str] | None = None,
    more: dict[str, list[str]] | None = None,
    at_end: Callable[[Path], None] | None = None,
) -> None:
    """Runs the command; exits with 2 and one line when an input is wrong.

    Args:
        args: Arguments of the command, None for the program's.
        more: Further options of `vsd fit`, by stage.
        at_end: Called with the folder of the run when all its stages have finished.
    """
    try:
        wish, folder, resumed = parse(args)
        for stage in wish.stages:
            config_of(wish.preset, stage, wish.mesh is not None)
        folder.reserve()
    except InputError as error:
        print(f"dream: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        sys.exit(2)
    try:
        if not resumed:
            words = {key: value for key, value in asdict(wish).items() if value is not None}
            with atomic_write(folder.path / DREAM) as part:
                part.write_text(yaml.safe_dump(words, allow_unicode=True), encoding="utf-8")
        code = dream(wish, folder.path, more)
        if not any((folder.path / stage / CONFIG).exists() for stage in wish.stages):
            folder.discard()
    except (KeyboardInterrupt, OSError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        words = "interrupted" if interrupted else f"{error.filename or folder.path}: {error.strerror}"
        if (folder.path / DREAM).exists():
            words += f"; resume: {resume_command(folder.path / wish.stages[0])}"
        else:
            folder.discard()
        print(f"dream: {words}", file=sys.stderr)
        sys.exit(130 if interrupted else 1)
    finally:
        folder.release()
    if code == 0 and at_end is not None:
        at_end(folder.path)
    sys.exit(code)


if __name__ == "__main__":
    main()
