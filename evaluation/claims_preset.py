"""The toybox's NeRF presets on prompts that they were not tuned on, with several seeds (see `evaluation.claims`).

A preset as it is (`configs/toybox/nerf.yaml`, `configs/toybox-best/nerf.yaml`), one particle. The settings were chosen
from "a yellow duck"; "a white snowman" and "a red house" were looked at meanwhile. The prompts here are of other
objects.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

import torch

from evaluation.claims_3d import Table3D
from evaluation.claims_pictures import save_strips, strip
from evaluation.claims_report import write_text
from evaluation.particles_3d import Setting3D, particles_3d

PROMPTS = ("a red mushroom", "a blue chair", "a purple robot", "a pink ice cream", "a red car")
SEEDS = 3
PRESETS = {  # by the part of the claims: what the preset's file says
    "preset": {"preset": "toybox", "kind": "vsd-0.75", "scale": 3.0, "particles": 1, "steps": 900},
    "best": {"preset": "toybox-best", "kind": "vsd-0.75", "scale": 3.0, "particles": 1, "steps": 1800},
}
FIGURES = {  # column: heading, goal
    "part_recall": ("part recall", None),
    "recall_of_prior": ("part recall over the prior's", "at least 0.8, of toybox-best 0.9"),
    "false_parts": ("false parts", None),
    "sharpness": ("sharpness", "0.8 to 1.2"),
    "janus": ("Janus rate", "at most 0.02"),
    "truth_score": ("L1 score", "at least 0.75"),
    "kid_prior": ("KID to the prior's samples", None),
    "seconds": ("seconds", "at most 300 on two idle cores, of toybox-best 1800 with its meshes"),
}


def settings(
    part: str, quick: bool = False, seeds: int | None = None, prompts: Sequence[str] = PROMPTS
) -> list[Setting3D]:
    """The runs, seeds last; the first prompt's with one seed if quick.

    Args:
        part: A key of PRESETS.
        quick: Whether few runs are enough.
        seeds: How many seeds; None for one if quick, else SEEDS.
        prompts: Objects with colours.
    """
    prompts, usual = (prompts[:1], 1) if quick else (prompts, SEEDS)
    return [Setting3D(prompt, seed=seed, **PRESETS[part]) for seed in range(seeds or usual) for prompt in prompts]


def measure(runs: Iterable[Setting3D], folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Runs and measures.

    Args:
        runs: The settings.
        folder: Of their files.

    Returns:
        One row per run; and rows of pictures (H, W, 3): truth, the prior's samples and the first seed's result.
    """
    table, rows, strips = Table3D(), [], {}
    for setting in runs:
        prompt = setting.prompt
        yardstick, samples = table.yardstick(prompt)
        pictures, run = particles_3d(setting, folder)
        row = table.row(setting, pictures, run)
        of_prior = yardstick.measure(samples, whole_looks=False).part_recall
        row["recall_of_prior"] = None if row["part_recall"] is None else row["part_recall"] / of_prior
        rows.append(row)
        if setting.seed == 0:
            truth = yardstick.truth.over(pictures.background)
            for name, shown in (("1 truth", truth), ("2 prior's samples", samples), ("3 preset", pictures)):
                strips[f"{prompt}, {name}"] = strip(shown.rgb[0])
        print(f"preset {setting.key}  {run['seconds']:.0f} s", flush=True)
    return rows, strips


def spread(values: list[float | None]) -> str:
    """Mean, smallest and largest value, as text; a single value stands alone."""
    known = [value for value in values if value is not None]
    if len(known) == 1:
        return f"{known[0]:.2f}"
    return f"{mean(known):.2f} ({min(known):.2f} to {max(known):.2f})" if known else ""


def write_report(part: str, measured: tuple[list[dict], dict[str, torch.Tensor]], folder: Path) -> None:
    """Writes PART.md and PART-views.png, and prints the table.

    Args:
        part: A key of PRESETS.
        measured: Rows and pictures, see `measure`.
        folder: Where to.
    """
    rows, strips = measured
    lines = ["Mean (smallest to largest) over seeds; the prior's samples in KID are those of the same prompt.", ""]
    lines += ["| prompt | seeds | " + " | ".join(heading for heading, _ in FIGURES.values()) + " |"]
    lines += ["|---" * (2 + len(FIGURES)) + "|"]
    for prompt in [*dict.fromkeys(row["prompt"] for row in rows), None]:
        members = [row for row in rows if prompt in (None, row["prompt"])]
        cells = [spread([row[column] for row in members]) for column in FIGURES]
        lines.append(f"| {prompt or 'all'} | {len(members)} | " + " | ".join(cells) + " |")
    lines.append("| goal | | " + " | ".join(goal or "" for _, goal in FIGURES.values()) + " |")
    write_text(folder / f"{part}.md", lines)
    save_strips(strips, folder / f"{part}-views.png")
