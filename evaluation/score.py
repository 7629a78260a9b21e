"""Measures what runs have made: python -m evaluation.score RUN... [--json] [--views 8].

RUN is a run folder of any stage, or a folder of `dream`, whose last stage is meant. Every particle is rendered from
`--views` cameras, the front first, and measured (see `evaluation.measures`) beside two reference rows: further true
instances, and the prior's own ancestral samples for the same prompt and views. RUN/score.png shows a true instance, the
prior's samples and the particles in rows. `--json` prints one object per run instead of the table.

For a prior other than the toybox there is no truth: `--clip MODEL` measures CLIP score and R-precision instead, with
`--samples N` also KID to N samples of the prior per view and diversity over theirs, in CLIP's features. `--export
FOLDER` writes every view as a file, as GPTEval3D and T3Bench want them.
"""

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path

from common.checks import require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from evaluation.clip import CLIPFigures, CLIPJudge
from evaluation.kid import FEW
from evaluation.measures import COLUMNS, Figures, Yardstick, load_judges, truth_for
from evaluation.pictures import INSTANCES, OTHERS, SIZE, Pictures, white
from evaluation.prior_samples import prior_samples, view_samples
from evaluation.runs import Result, load_result, record_of
from evaluation.sheet import contact_sheet
from lightning_modules.cli import silence
from lightning_modules.run.pictures import save_picture
from toybox.world.captions import parse_prompt

SHEET = "score.png"
CLIP_SIZE = 256  # pixels of a view that CLIP judges
# What --json prints, in this order; the references' figures follow those of the run.
KEYS = (
    *("part_recall", "part_recall_prior", "false_parts", "sharpness", "patch_distance", "kid", "kid_reference"),
    *("janus", "diversity", "truth_score"),
    *("kid_error", "wrong_views", "coverage"),
)


def references(result: Result, yardstick: Yardstick) -> dict[str, tuple[Pictures, Figures]]:
    """The reference rows of a run.

    Args:
        result: What the run has made.
        yardstick: Of its prompt and cameras.

    Returns:
        By name, "truth" and "prior": the pictures and their figures.
    """
    truth = truth_for(yardstick.name, yardstick.colour, result.cameras, OTHERS, INSTANCES)
    real = truth.over(white(OTHERS, len(result.cameras)))
    drawn = prior_samples(result.prior, yardstick.name, yardstick.colour, result.cameras)
    return {
        "truth": (real, yardstick.measure(real)),
        "prior": (drawn, yardstick.measure(drawn, whole_looks=False)),
    }


def as_object(run: str, mine: Figures, prior: Figures) -> dict[str, str | float | None]:
    """The figures of a run as one JSON object.

    Args:
        run: Its folder.
        mine: Its figures.
        prior: Those of the prior's samples.

    Returns:
        "run" and the keys of KEYS; a number or None each.
    """
    values = asdict(mine) | {"part_recall_prior": prior.part_recall, "kid_reference": prior.kid}
    return {"run": run} | {key: values[key] for key in KEYS}


def print_row(name: str, figures: Figures) -> None:
    """Prints a row of the table; "-" for what does not apply."""
    cells = [value if value is None else f"{value:.3f}" for value in asdict(figures).values()]
    row = [f"{cell or '-':>{_width(key)}}" for key, cell in zip(COLUMNS, cells, strict=True)]
    print(f"{name[-38:]:<38}{''.join(row)}", flush=True)


def print_head() -> None:
    """Prints the head of the table."""
    print(f"{'':<38}" + "".join(f"{key:>{_width(key)}}" for key in COLUMNS))


def _width(key: str) -> int:
    return max(8, len(key) + 2)


def score_toybox(results: list[Result], as_json: bool) -> None:
    """Measures runs of toybox prompts; prints the table or the objects and writes the sheets.

    Args:
        results: What the runs have made.
        as_json: Print objects, not the table.
    """
    measured: dict[tuple, tuple[Yardstick, dict]] = {}  # what runs of the same prompt, prior and cameras share
    if not as_json:
        print_head()
    for result in results:
        name, colour, _ = parse_prompt(result.prompt)
        key = (name, colour, result.prior, *(tuple(x.tolist()) for x in vars(result.cameras).values()))
        if key not in measured:
            yardstick = Yardstick(name, colour, result.cameras, load_judges(name))
            measured[key] = yardstick, references(result, yardstick)
        yardstick, rows = measured[key]
        mine = yardstick.measure(result.pictures, whole_looks=len(result.cameras) > 1)
        contact_sheet(
            {"truth": rows["truth"][0][:1], "prior": rows["prior"][0][:1], "particle": result.pictures},
            result.cameras,
            result.folder / SHEET,
        )
        if as_json:
            print(json.dumps(as_object(str(result.folder), mine, rows["prior"][1])), flush=True)
        else:
            print_row(str(result.folder), mine)
            for words, (_, figures) in rows.items():
                print_row(f"  {words}: {result.prompt}", figures)


def score_clip(results: list[Result], judge: CLIPJudge, as_json: bool, samples: int = 0) -> None:
    """Measures runs by a CLIP model; prints the table or the objects.

    Args:
        results: What the runs have made.
        judge: The model. R-precision is among the prompts of all runs and the judge's distractors.
        as_json: Print objects, not the table.
        samples: How many of the prior's samples per view the runs are compared with; 0 for none.
    """
    prompts = [result.prompt for result in results]
    columns = [field.name for field in fields(CLIPFigures)]
    if not as_json:
        print(f"{'':<38}" + "".join(f"{name:>{_width(name)}}" for name in columns))
    for result in results:
        aim = view_samples(result.prior, result.prompt, result.cameras, samples) if samples else None
        figures = asdict(judge.measure(result.pictures.rgb, result.prompt, prompts, aim))
        if as_json:
            print(json.dumps({"run": str(result.folder)} | figures), flush=True)
        else:
            cells = ["-" if figures[name] is None else f"{figures[name]:.3f}" for name in columns]
            row = [f"{cell:>{_width(name)}}" for cell, name in zip(cells, columns, strict=True)]
            print(f"{str(result.folder)[-38:]:<38}{''.join(row)}", flush=True)


def export(results: list[Result], folder: Path) -> None:
    """Writes FOLDER/RUN/particleN/VIEW.png for every view of every particle.

    Args:
        results: What the runs have made.
        folder: Where to; created.
    """
    for result in results:
        run = "-".join(result.folder.absolute().parts[-3:])
        for i, views in enumerate(result.pictures.rgb):
            for k, view in enumerate(views):
                save_picture(view.permute(1, 2, 0), folder / run / f"particle{i}" / f"{k}.png")


def require_toybox(folder: Path) -> None:
    """Makes sure that there is a truth to hold a run against, before it is rendered.

    Args:
        folder: Of the run.

    Raises:
        InputError: Its prompt is none of the toybox.
    """
    prompt = record_of(folder)["prompt"]
    try:
        parse_prompt(prompt)
    except InputError as error:
        raise InputError(f"{folder}: {error}; measure other prompts with --clip MODEL") from error


def main(args: list[str] | None = None) -> None:
    """The command; exits with 2 and one line when an input is wrong.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(prog="score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=a_path, metavar="RUN", help="run folders, of any stage or of dream")
    parser.add_argument("--json", action="store_true", help="print one object per run, not the table")
    parser.add_argument("--views", type=int, default=8, help="cameras round a particle (default: %(default)s)")
    parser.add_argument("--size", type=int, default=None, help=f"pixels of a view with --clip (default: {CLIP_SIZE})")
    parser.add_argument("--clip", metavar="MODEL", help="folder or id of a CLIP model: measure without truth")
    parser.add_argument("--samples", type=int, default=0, help="of the prior per view, with --clip (default: none)")
    parser.add_argument("--export", type=a_path, metavar="FOLDER", help="also write every view as a PNG file")
    silence()
    with one_line("score"):
        score(parser.parse_args(args))


def score(options: argparse.Namespace) -> None:
    """Does what the command's options ask for.

    Args:
        options: See `main`.

    Raises:
        InputError: A run, a prompt or a number is wrong.
    """
    require_range("--views", options.views, 2, 10_000)
    require_range("--size", options.size, 1, 8192)
    if options.export:
        require_place("--export", options.export)
    if options.size is not None and not options.clip:
        raise InputError("--size: the toybox's judges take 64 pixels; leave it out, or measure with --clip")
    require_range("--samples", options.samples, 0, 1000)
    if options.samples and not options.clip:
        raise InputError("--samples: the toybox has its own reference rows; leave it out, or measure with --clip")
    if 0 < options.samples < FEW:
        raise InputError(f"--samples: {options.samples}; KID needs at least {FEW}, or 0 for none")
    if not options.clip:
        for run in options.runs:
            require_toybox(run)
    size = options.size or CLIP_SIZE if options.clip else SIZE
    results = [load_result(run, options.views, size) for run in options.runs]
    if options.clip:
        score_clip(results, CLIPJudge.load(options.clip), options.json, options.samples)
    else:
        score_toybox(results, options.json)
    if options.export:
        export(results, options.export)


if __name__ == "__main__":
    main()
