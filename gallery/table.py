"""The command `vsd runs`.

vsd runs [FOLDER] [--json]

Lists all runs in a table, one row per stage: prompt, stage, preset, steps done and planned, seconds, the last loss of
phi, and whether the run has finished or can be resumed. FOLDER is `runs` by default.
"""

import argparse
import json
import os
import pickletools
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from common.command_line import OneLineArguments, a_path, one_line
from gallery.runs import Part, Run, find_runs, read_run
from lightning_modules.run.folder import LAST

HEADS = ("prompt", "stage", "preset", "steps", "seconds", "phi loss", "state", "folder")


@dataclass(frozen=True)
class Row:
    """A stage of a run.

    Args:
        folder: Of the stage.
        prompt: Of the run.
        stage: Its name.
        preset: Of `dream`; None for a run of its own.
        steps: Made so far, those of the last checkpoint; None where there is none.
        of: Planned; None where the record does not say.
        seconds: That it took, None where `dream` did not run it.
        phi_loss: The last one in metrics.csv, None where there is none.
        state: "finished", "resumable", or "no checkpoint".
    """

    folder: str
    prompt: str
    stage: str
    preset: str | None
    steps: int | None
    of: int | None
    seconds: float | None
    phi_loss: float | None
    state: str


def steps_of(checkpoint: Path) -> int | None:
    """The trainer's step of a checkpoint, read without torch; None where it cannot be read.

    Args:
        checkpoint: The file.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            words = pickletools.genops(archive.read(name))
            for _, argument, _ in words:
                if argument == "global_step":
                    return next(number for code, number, _ in words if code.name.startswith(("BININT", "LONG")))
    except (OSError, ValueError, zipfile.BadZipFile, StopIteration):
        return None
    return None


def row_of(run: Run, part: Part) -> Row:
    """The row of a stage.

    Args:
        run: Its run.
        part: The stage.
    """
    of = part.settings.get("trainer.max_steps", "")
    planned = int(of) if of.isdigit() else None
    steps = steps_of(part.folder / LAST)
    losses = [curve.values[-1] for curve in part.curves if curve.name.endswith("score_loss") and curve.values]
    done = steps is not None and planned is not None and steps >= planned and not part.unfinished
    state = "finished" if done else "no checkpoint" if steps is None else "resumable"
    phi = losses[-1] if losses else None
    words = run.prompt, part.name, run.wish.get("preset")
    return Row(os.path.relpath(part.folder), *words, steps, planned, part.seconds, phi, state)


def lines(rows: list[Row]) -> list[str]:
    """A table for a terminal.

    Args:
        rows: What it shows.
    """
    table = [HEADS]
    for row in rows:
        steps = "-" if row.steps is None else str(row.steps)
        seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
        phi = "-" if row.phi_loss is None else f"{row.phi_loss:.4g}"
        prompt = row.prompt if len(row.prompt) <= 40 else row.prompt[:39] + "\N{HORIZONTAL ELLIPSIS}"
        steps += f"/{row.of}" if row.of is not None else ""
        table.append((prompt, row.stage, row.preset or "-", steps, seconds, phi, row.state, row.folder))
    widths = [max(len(line[k]) for line in table) for k in range(len(HEADS))]
    return ["  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in table]


def main(args: list[str] | None = None) -> None:
    """Prints the table; exits with 2 and one line when an input is wrong.

    Args:
        args: Arguments of the command, None for the program's.
    """
    parser = OneLineArguments(
        prog="vsd runs", description=__doc__.split("\n\n", 2)[2], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=a_path, default=Path("runs"), metavar="FOLDER", help="default: runs")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    with one_line("vsd runs"):
        options = parser.parse_args(args)
        runs = [read_run(folder) for folder in find_runs([options.folder])]
        rows = [row_of(run, part) for run in runs for part in run.parts]
        print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else "\n".join(lines(rows)))
