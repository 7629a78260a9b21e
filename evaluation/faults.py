"""Validates the measures on true pictures with faults: python -m evaluation.faults [--out FILE].

Takes true instances that are not among those of the truth, gives them one fault each, and measures them. Writes a
report with a table per object, fault by measure, in which the measures that must catch a fault are marked, and beside
it a picture of the faults. Exits with 1 when one of them does not (see CAUGHT).
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusers import DiffusionPipeline
from torch import Tensor

from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.files import atomic_write
from evaluation.faulty_sets import sets
from evaluation.kid import Estimate, kid
from evaluation.measures import COLUMNS, Figures, Judges, Yardstick, load_judges
from evaluation.pictures import INSTANCES, Pictures, look_cameras, white
from evaluation.sheet import contact_sheet
from lightning_modules.cli import silence
from toybox.judges.parts import PartsJudge
from toybox.judges.parts_training import HELD_OUT, held_out_accuracy
from toybox.prior.metrics import image_features
from toybox.world.captions import caption
from toybox.world.incomplete import incomplete_renders
from vsd.prior import load_pipeline

OBJECTS = (("duck", "yellow", "beak"), ("snowman", "white", "buttons"), ("car", "red", "lamps"))  # with a part to drop
VIEWS, DISTANCE, FOVY = 8, 2.3, 40.0
COUNT = 8  # objects of a set


# What a fault must do to a measure: (figures of the faulty set, figures of the sound one) -> caught or not. The margins
# are several times what the measures differ by between two sets of true instances. A part that is dropped is one of
# several in each view; of the wrong views, two fronts spoil those from behind, and not those from the side.
CAUGHT: dict[str, dict[str, Callable[[Figures, Figures], bool]]] = {
    "blur": {
        "sharpness": lambda bad, good: bad.sharpness < 0.8 * good.sharpness,
        "patch_distance": lambda bad, good: bad.patch_distance > 1.5 * good.patch_distance,
        "kid": lambda bad, good: bad.kid > good.kid + 4 * math.hypot(bad.kid_error, good.kid_error),
    },
    "a part dropped": {"part_recall": lambda bad, good: bad.part_recall < good.part_recall - 0.04},
    "left and right exchanged": {"wrong_views": lambda bad, good: (bad.wrong_views or 0) > 0.5},
    "two fronts": {"janus": lambda bad, good: bad.janus > 0.5 and good.janus < 0.1},
    "one object copied": {
        "diversity": lambda bad, good: bad.diversity < 0.05 < 0.7 < good.diversity,
        "coverage": lambda bad, good: bad.coverage < 0.05 < 0.5 < good.coverage,
    },
    "noise": {
        "sharpness": lambda bad, good: bad.sharpness > 1.2 * good.sharpness,
        "patch_distance": lambda bad, good: bad.patch_distance > 1.5 * good.patch_distance,
    },
}


@dataclass(frozen=True)
class Case:
    """A set with a fault.

    Args:
        pictures: The set.
        figures: Its measures.
        missed: The measures that should have caught the fault and have not.
        tower: KID in the features of the toybox's image tower, for comparison.
    """

    pictures: Pictures
    figures: Figures
    missed: tuple[str, ...]
    tower: Estimate


def cases(name: str, colour: str, part: str, judges: Judges, count: int = COUNT) -> dict[str, Case]:
    """Measures an object with every fault.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        part: The one that is dropped.
        judges: What is asked.
        count: Instances of a set.

    Returns:
        The cases by fault, the sound one first.
    """
    cameras = look_cameras(VIEWS, DISTANCE, FOVY)
    yardstick, pipeline = Yardstick(name, colour, cameras, judges), load_pipeline()
    faulty = sets(name, colour, part, cameras, count)
    figures = {fault: yardstick.measure(pictures) for fault, pictures in faulty.items()}
    truth = _tower_features(pipeline, yardstick.truth.over(white(1, VIEWS)))
    result = {}
    for fault, pictures in faulty.items():
        tests = CAUGHT.get(fault, {})
        applies = {m: test for m, test in tests.items() if getattr(figures["none"], m) is not None}
        missed = tuple(m for m, test in applies.items() if not test(figures[fault], figures["none"]))
        tower = kid(_tower_features(pipeline, pictures), truth)
        result[fault] = Case(pictures, figures[fault], missed, tower)
    return result


def _tower_features(pipeline: DiffusionPipeline, pictures: Pictures) -> Tensor:
    """The image tower's features (N, V, D)."""
    return image_features(pipeline, pictures.network_images()).unflatten(0, pictures.rgb.shape[:2])


def as_markdown(prompt: str, part: str, results: dict[str, Case], sheet: str) -> str:
    """The section of an object: its sheet, faults by measures, and KID by encoder.

    A cell is bold where the measure is meant for the fault, with "MISSED" if it has not caught it.

    Args:
        prompt: The object in words.
        part: The one that is dropped.
        results: The cases by fault.
        sheet: The name of the picture.

    Returns:
        Markdown.
    """
    lines = [f"## {prompt.capitalize()}", "", f"![{prompt}: one row per fault]({sheet})", ""]
    lines += ["| fault | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for fault, case in results.items():
        cells = []
        for measure, value in asdict(case.figures).items():
            cell = "-" if value is None else f"{value:.3f}"
            if measure in CAUGHT.get(fault, {}) and value is not None:
                cell = f"**{cell}**" + (" MISSED" if measure in case.missed else "")
            cells.append(cell)
        lines.append(f"| {fault.replace('a part', f'the {part}')} | " + " | ".join(cells) + " |")
    judge = {fault: Estimate(case.figures.kid, case.figures.kid_error) for fault, case in results.items()}
    tower = {fault: case.tower for fault, case in results.items()}
    rises = [f"{fault} {_rise(judge, fault):.1f} | {_rise(tower, fault):.1f}" for fault in results if fault != "none"]
    lines += ["", "Rise of KID in standard errors, features of the judge of parts | of the image tower: "]
    lines[-1] += "; ".join(rises) + "."
    return "\n".join(lines)


def _rise(estimates: dict[str, Estimate], fault: str) -> float:
    """How far a fault raises KID over that of the sound set, in standard errors."""
    bad, good = estimates[fault], estimates["none"]
    return (bad.value - good.value) / math.hypot(bad.error, good.error)


INTRODUCTION = f"""# The measures and the faults they are meant for

Written by `python -m evaluation.faults --out docs/measures.md`. Sets of {COUNT} true instances, not among the
{INSTANCES} that stand for the truth, get one fault each; what each measure asks is written in `evaluation/measures.py`,
the margins by which a fault must show in `evaluation/faults.py` (CAUGHT). **Bold**: the measure is meant for the fault.
"""


def judge_in_words(name: str, judge: PartsJudge) -> str:
    """How well the judge of an object's parts does on held-out instances, which lack random parts too.

    Args:
        name: A key of OBJECTS.
        judge: Its judge.

    Returns:
        A sentence.
    """
    accuracy = held_out_accuracy(judge, *incomplete_renders(name, HELD_OUT, held_out=True))
    rows = [f"{part} {a.recall:.2f} ({a.false_alarms:.2f})" for part, a in accuracy.items()]
    return f"The judge's recall on held-out truth (false alarms) from random cameras: {', '.join(rows)}."


def main(args: list[str] | None = None) -> None:
    """The command; exits with 1 when a measure misses its fault.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(prog="faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=a_path, default=Path("runs/faults.md"), help="report to write (%(default)s)")
    silence()
    with one_line("faults"):
        options = parser.parse_args(args)
        require_place("--out", options.out.parent)
    sections, missed = [INTRODUCTION], []
    for name, colour, part in OBJECTS:
        judges = load_judges(name)
        results = cases(name, colour, part, judges)
        sheet = options.out.with_name(f"faults_{name}.png")
        contact_sheet({f: c.pictures[:1] for f, c in results.items()}, look_cameras(VIEWS, DISTANCE, FOVY), sheet, 1)
        sections.append(as_markdown(caption(name, colour), part, results, sheet.name))
        sections[-1] += "\n\n" + judge_in_words(name, judges.parts)
        print(sections[-1], end="\n\n", flush=True)
        missed += [f"{name}, {fault}: {m}" for fault, case in results.items() for m in case.missed]
    with atomic_write(options.out) as file:
        file.write_text("\n\n".join(s.strip() for s in sections) + "\n", encoding="utf-8")
    print("\n".join(["missed:", *missed]) if missed else "every fault is caught")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
