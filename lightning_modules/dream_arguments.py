"""What the command `dream` is asked for: on its command line, or in the record of the run that it resumes."""

import argparse
import sys
from pathlib import Path

import yaml

from common.command_line import OneLineArguments, a_path
from common.errors import InputError
from common.yaml_text import require_plain
from lightning_modules.run.folder import DREAM, RunFolder
from lightning_modules.run.live_page import require_viser
from lightning_modules.wish import CONFIG_FLAGS, PRESETS, Wish, config_file

LOGGERS = ("wandb", "tensorboard")  # files of configs/loggers
ABOUT = """Makes an object from a prompt: a NeRF, its surface, its texture, each in a folder of its own.

The run ends with a textured mesh, texture/mesh-particle0.glb, and a page that shows it, index.html.
"""
EPILOG = """examples:
  dream "a red mushroom"                     minutes on one core; the toybox knows twelve objects in eight colours
  dream "a blue car" --particles 3 --view    three cars, seen on a page while they train
  dream "a red mushroom" --mesh my.glb       colours for a mesh of your own
  dream --resume runs/a-red-mushroom/STAMP   goes on with a run that was stopped, by Ctrl-C too
  dream "a pineapple" --preset sd21          Stable Diffusion, which needs a GPU

What follows `--` goes to the `vsd fit` of every stage: -- --trainer.devices 4 -c configs/loggers/wandb.yaml
"""


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


def parse(args: list[str] | None) -> tuple[Wish, RunFolder, argparse.Namespace]:
    """Parses the command line.

    Args:
        args: Arguments of the command, None for the program's.

    Returns:
        What is asked for, the folder, and all options: those that are no wish hold for this session alone.

    Raises:
        InputError: The arguments are impossible.
    """
    args = sys.argv[1:] if args is None else args
    split = args.index("--") if "--" in args else len(args)
    args, overrides = args[:split], absolute_configs(args[split + 1 :])
    parser = OneLineArguments(
        prog="dream", description=ABOUT, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompt", nargs="?", help="what to make, such as 'a red mushroom'")
    parser.add_argument("--preset", help=f"{', '.join(PRESETS)} (default: {Wish.preset})")
    parser.add_argument("--particles", type=int, help=f"how many objects (default: {Wish.particles})")
    parser.add_argument("--seed", type=int, help=f"of everything random (default: {Wish.seed})")
    parser.add_argument("--mesh", type=a_path, metavar="FILE", help="texture this GLB, OBJ, PLY or STL file alone")
    parser.add_argument("--out", type=a_path, help="a new folder for the run (default: runs/PROMPT/TIME)")
    parser.add_argument("--log", choices=LOGGERS, help="show numbers, pictures and meshes there too")
    parser.add_argument("--resume", type=a_path, metavar="FOLDER", help="resume the run in this folder")
    parser.add_argument("--view", action="store_true", help="show the particles on a page while they train")
    parser.add_argument("--quiet", action="store_true", help="tell no progress")
    options, unknown = parser.parse_known_args(args)
    if unknown:
        raise InputError(about_unknown(options.prompt, unknown))
    if options.view:
        require_viser()
    others = ("out", "resume", "log", "view", "quiet")
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
        return wish, RunFolder(options.out, wish.prompt, "--out"), options
    if options.out is not None:
        raise InputError("--out: a run is resumed in its own folder; leave it out")
    wish = recorded(options.resume)
    for key, value in given.items():
        if value != getattr(wish, key):
            raise InputError(f"{key}: {options.resume} was started with {getattr(wish, key)!r}; leave it out")
    return wish, RunFolder(options.resume, None, "--resume"), options


def about_unknown(prompt: str | None, unknown: list[str]) -> str:
    """What is to be said of arguments that the command does not have.

    Args:
        prompt: What was taken for the prompt.
        unknown: The arguments, at least one.
    """
    if unknown[0].startswith("-"):
        return f"{unknown[0].split('=')[0]}: no option of dream; options of vsd fit follow --: -- {' '.join(unknown)}"
    return f'unrecognized arguments: {" ".join(unknown)}; quote the prompt: "{" ".join([prompt or "", *unknown])}"'


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
