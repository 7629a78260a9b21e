"""The commands: `vsd gallery FOLDER...`, and `vsd` and `dream` as they are installed.

vsd gallery FOLDER... [--out FOLDER]

Writes index.html into every run folder, and for several runs a page that compares them. FOLDER is a run of `dream`, a
run of a stage, or a folder of runs such as `runs`.
"""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from gallery import table
from gallery.compare import write_compare_page
from gallery.page import write_run_page
from gallery.runs import find_runs, read_run
from lightning_modules import dream as stages

TRAINING = {  # the commands of lightning_modules.cli
    "fit": "train a stage, and render its turntable",
    "validate": "render a few views of a run",
    "test": "render the turntable of a run again",
    "predict": "render a run along a camera path",
}
OTHERS = {
    "gallery": "write the pages of runs, and one that compares them",
    "export": "write a run's meshes and pictures for other programs",
    "runs": "list all runs in a table",
}
HELP = """usage: vsd COMMAND ...

Trains single stages, and shows what runs have made. `dream "a red mushroom"` runs all stages.

commands:
{}

vsd COMMAND --help tells the options of a command, vsd fit --model.help NerfStage those of a stage.
"""


def main(args: list[str] | None = None) -> None:
    """`vsd gallery`: prints the pages, the one to open last; exits with 2 and one line when an input is wrong.

    Args:
        args: The arguments, by default the program's.
    """
    about = __doc__.split("\n\n", 2)[2]
    parser = OneLineArguments(
        prog="vsd gallery", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=a_path, metavar="FOLDER", help="runs, or folders of runs")
    parser.add_argument(
        "--out",
        type=a_path,
        metavar="FOLDER",
        help="where the comparison goes (default: the folder of all runs)",
    )
    with one_line("vsd gallery"):
        options = parser.parse_args(args)
        if options.out is not None:
            require_place("--out", options.out)
        for page in write(options.folders, options.out):
            print(os.path.relpath(page))


def write(folders: list[Path], out: Path | None = None) -> list[Path]:
    """Writes the pages of runs.

    Args:
        folders: Runs, or folders of runs.
        out: Folder of the comparison; None for the innermost folder that holds all that are named.

    Returns:
        The pages, that of the comparison last.

    Raises:
        InputError: A folder holds no run, or a page of another program is in the way.
        OSError: A folder is not writable.
    """
    runs = [read_run(folder) for folder in find_runs(folders)]
    pages = [write_run_page(run) for run in runs]
    if len(runs) > 1 or out is not None:
        place = (out or Path(os.path.commonpath([folder.absolute() for folder in folders]))).absolute()
        if any(run.folder == place for run in runs):
            raise InputError(f"--out: {place} is the folder of a run; name another for the comparison")
        pages.append(write_compare_page(runs, place))
    return pages


def vsd() -> None:
    """The program `vsd`: `vsd gallery` and `vsd runs` are in this package, everything else in lightning_modules."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name == "gallery":
        main(sys.argv[2:])
    elif name == "runs":
        table.main(sys.argv[2:])
    elif name in ("-h", "--help"):
        print(HELP.format("\n".join(f"  {one:10}{words}" for one, words in (TRAINING | OTHERS).items())), end="")
    elif not name.startswith("-") and name not in TRAINING | OTHERS:
        words = f"'{name[:40]}' is no command" if name else "a command is missing"
        print(f"vsd: {words}; there are {', '.join(TRAINING | OTHERS)}; vsd --help explains them", file=sys.stderr)
        sys.exit(2)
    elif name == "export":
        require_everything("vsd export")
        from lightning_modules.export import main as export  # loads torch

        export(sys.argv[2:])
    else:
        require_everything("vsd")
        try:
            from lightning_modules.cli import main as train  # loads torch, which takes seconds
        except KeyboardInterrupt:
            print("vsd: interrupted", file=sys.stderr)
            sys.exit(130)
        train()


def dream() -> None:
    """The program `dream`, which ends with the page of its run."""
    require_everything("dream")
    stages.main(at_end=show)


def require_everything(program: str) -> None:
    """Ends the program with 2 and one line where the package was installed without what the stages need.

    Args:
        program: Its name.
    """
    if find_spec("pytorch_lightning") is None:
        print(f"{program}: pytorch-lightning is not installed; pip install 'prolific[all]'", file=sys.stderr)
        sys.exit(2)


def show(folder: Path) -> None:
    """Writes the page of a run and prints its path.

    Args:
        folder: Of the run.
    """
    with one_line("dream"):
        print(os.path.relpath(write_run_page(read_run(folder))))
