"""More steps in 2D: whether VSD comes to the prior's samples when it is given longer (see `evaluation.claims`).

VSD and SDS at the best 2D setting of each: VSD at scale 1 with a learning rate of the particles that falls to 0, SDS at
scale 3 without.
"""

from itertools import product
from pathlib import Path

from torch import Tensor

from evaluation.claims_2d import view_prompt
from evaluation.claims_particles import FIGURES
from evaluation.claims_pictures import save_strips, strips_of
from evaluation.claims_report import grouped_table, write_text
from evaluation.particles_2d import Setting

PROMPTS = ("a yellow duck", "a red car")
METHODS = {"vsd": {"scale": 1.0, "decay": True}, "sds": {"scale": 3.0}}
STEPS, SEEDS = (100, 300, 900), 3


def settings(quick: bool = False, seeds: int | None = None, prompts: tuple[str, ...] = PROMPTS) -> list[Setting]:
    """The runs, the first seeds and few steps first.

    Args:
        quick: Whether one seed of the first prompt is enough.
        seeds: How many seeds; None for one if quick, else SEEDS.
        prompts: Objects with colours.
    """
    each = range(seeds or (1 if quick else SEEDS))
    chosen = [view_prompt(prompt) for prompt in (prompts[:1] if quick else prompts)]
    return [
        Setting(prompt, kind, seed=seed, steps=steps, **METHODS[kind])
        for seed, steps, prompt, kind in product(each, STEPS, chosen, METHODS)
    ]


def write_report(measured: tuple[list[dict], dict[Setting, Tensor]], folder: Path) -> None:
    """Writes steps.md and steps.png, and prints the table.

    Args:
        measured: Rows and pictures, see `evaluation.claims_2d.measure_part`.
        folder: Where to.
    """
    rows, shown = measured
    best = " and ".join(f"{kind} {options['scale']:g}" for kind, options in METHODS.items())
    intro = f"{Setting.particles} particles, each method at its best scale ({best}), the steps of each particle."
    columns = {"prompt": "prompt", "kind": "method", "steps": "steps"}
    lines = grouped_table(rows, columns, {name: heading for name, heading in FIGURES.items() if name != "seconds_each"})
    write_text(folder / "steps.md", [intro, "", *lines])
    ordered = {run: shown[run] for run in sorted(shown, key=lambda r: (r.prompt, r.kind, r.scale, r.steps))}
    strips = strips_of(ordered, lambda run: f"{run.kind}, scale {run.scale:g}, {run.steps} steps")
    save_strips(strips, folder / "steps.png")
