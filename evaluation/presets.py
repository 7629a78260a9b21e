"""The README's table of the toybox configurations: python -m evaluation.presets [--write README.md].

Runs every stage of the toybox's presets in a process of its own and measures time, peak memory and quality of the
result (see `evaluation.measures`). A stage whose row is in the folder is not run again; another prompt, seed, prior or
option makes another folder below `--out`. `--write FILE` replaces the lines between `<!-- presets -->` and
`<!-- /presets -->` in a file. Options that this command does not know go to every `vsd fit`.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common.cache import tell_damaged
from common.checks import require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from common.files import atomic_write
from evaluation.measures import Yardstick, load_judges
from evaluation.prior_samples import fingerprint
from evaluation.runs import load_result
from lightning_modules.dream import handed_on
from lightning_modules.wish import STAGES
from toybox.world.captions import parse_prompt
from vsd.prior import TOYBOX, load_pipeline

BEGIN, END = "<!-- presets -->", "<!-- /presets -->"
CONFIGS = ("toybox/image", *(f"{preset}/{stage}" for preset in ("toybox", "toybox-best") for stage in STAGES))
KIB = 1 if platform.system() == "Darwin" else 1024  # bytes of a unit of ru_maxrss


@dataclass(frozen=True)
class Row:
    """What a configuration takes and gives.

    Args:
        config: Its file.
        minutes: Of the whole process, start and export included.
        gib: The most memory that the process held.
        part_recall: In [0, 1]; None for an object without named parts.
        sharpness: Ratio to the truth's.
        truth_score: L1 score; None in 2D.
    """

    config: str
    minutes: float
    gib: float
    part_recall: float | None
    sharpness: float | None
    truth_score: float | None


def measured_process(command: list[str]) -> tuple[float, float]:
    """Runs a command with its output on this one's error stream.

    Args:
        command: Program and arguments.

    Returns:
        Minutes, and GiB of the process's largest resident set.

    Raises:
        InputError: It failed.
    """
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=2)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"'{' '.join(command[2:])}' ended with code {process.returncode}; its message is above")
    return (time.monotonic() - start) / 60, usage.ru_maxrss * KIB / 2**30


def folder_of(out: Path, prompt: str, seed: int, overrides: list[str]) -> Path:
    """The folder below `out` of the runs with these options, the files of CONFIGS and the prior as they are.

    Args:
        out: Of all runs.
        prompt: Object and colour.
        seed: Of everything random.
        overrides: Options of `vsd fit`.
    """
    texts = [Path(f"configs/{name}.yaml").read_text(encoding="utf-8") for name in CONFIGS]
    made_with = json.dumps([prompt, seed, overrides, fingerprint(load_pipeline(TOYBOX)), texts])
    return out / hashlib.sha256(made_with.encode()).hexdigest()[:8]


def run_stage(name: str, prompt: str, seed: int, folder: Path, overrides: list[str]) -> Row:
    """Trains a stage of the toybox and measures it.

    Args:
        name: One of CONFIGS; a stage after the NeRF takes those before it from the folder.
        prompt: Object and colour.
        seed: Of everything random.
        folder: Holds a folder per preset and stage.
        overrides: Options of `vsd fit`.

    Returns:
        Its row, from the folder if it is there.
    """
    folder, stage = folder / Path(name).parent, Path(name).name
    record = folder / stage / "row.json"
    if record.exists():
        try:
            return Row(**json.loads(record.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            tell_damaged(record, str(error))
    config = f"configs/{name}.yaml"
    command = [
        *(sys.executable, "-m", "lightning_modules.cli", "fit", "--config", config, "--prompt", prompt),
        *("--seed_everything", str(seed), f"--trainer.default_root_dir={folder / stage}"),
        *(handed_on(stage, folder) if stage in STAGES else []),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *overrides,
    ]
    minutes, gib = measured_process(command)
    result = load_result(folder / stage)
    name, colour, _ = parse_prompt(prompt)
    whole = len(result.cameras) > 1
    figures = Yardstick(name, colour, result.cameras, load_judges(name)).measure(result.pictures, whole_looks=whole)
    row = Row(config, minutes, gib, figures.part_recall, figures.sharpness, figures.truth_score)
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps(asdict(row)))
    return row


def table(rows: list[Row], note: str) -> str:
    """The rows as Markdown.

    Args:
        rows: Of the configurations.
        note: What was measured where.
    """
    lines = [
        "| configuration | minutes | memory, GiB | part recall | sharpness | L1 score |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = (row.part_recall, row.sharpness, row.truth_score)
        cells = " | ".join("-" if value is None else f"{value:.2f}" for value in figures)
        lines.append(f"| `{row.config}` | {row.minutes:.1f} | {row.gib:.1f} | {cells} |")
    return "\n".join([*lines, "", note])


def write_between(file: Path, text: str) -> None:
    """Replaces what stands between the markers of a file.

    Args:
        file: With one BEGIN and, after it, one END.
        text: To stand there.

    Raises:
        InputError: The file cannot be read, or has no markers.
    """
    try:
        before, found, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    except OSError as error:
        raise InputError(f"--write: {file}: {error.strerror}; name a file that has the markers") from error
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise InputError(f"--write: {file} lacks {BEGIN} or, after it, {END}; add the lines where the table belongs")
    with atomic_write(file) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(args: list[str] | None = None) -> None:
    """The command; exits with 2 and one line when an input is wrong.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(prog="presets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="a yellow duck", help="object and colour (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--out", type=a_path, default=Path("runs/presets"), help="folder (default: %(default)s)")
    parser.add_argument("--write", type=a_path, metavar="FILE", help="put the table between the markers of this file")
    with one_line("presets"):
        options, overrides = parser.parse_known_args(args)
        require_range("--seed", options.seed, 0, 2**32 - 1)
        require_place("--out", options.out)
        if options.write and not options.write.is_file():
            raise InputError(f"--write: {options.write} does not exist; name a file with the markers")
        parse_prompt(options.prompt)
        folder = folder_of(options.out, options.prompt, options.seed, overrides)
        rows = [run_stage(name, options.prompt, options.seed, folder, overrides) for name in CONFIGS]
        text = table(
            rows,
            f'"{options.prompt}", seed {options.seed}, {datetime.date.today()}, {torch.get_num_threads()} thread(s) of '
            f"{platform.machine()}. `python -m evaluation.presets --write README.md` measures it anew.",
        )
        print(text)
        if options.write:
            write_between(options.write, text)


if __name__ == "__main__":
    main()
