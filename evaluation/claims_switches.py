"""What the switches of a step change of the quality, particles as images (see `evaluation.claims`).

Two tables. VSD at its best 2D setting (scale 1, a learning rate of the particles that falls to 0) with a switch that
saves time or memory. And phi's learning rate set by phi's health, from a rate that is too low and one that is high.
"""

from itertools import product
from pathlib import Path

from torch import Tensor

from evaluation.claims_2d import view_prompt
from evaluation.claims_pictures import save_strips, strips_of
from evaluation.claims_report import grouped_table, write_text
from evaluation.particles_2d import Setting

SAVING, SEEDS = ("", "shared", "bfloat16", "small"), 2
PROMPTS, RATES = ("a red car", "a white snowman"), (1e-4, 1e-2)
FIGURES = {
    "kid_prior": "KID to the prior's samples",
    "diversity_prior": "diversity over the prior's",
    "part_recall": "part recall",
    "sharpness": "sharpness",
    "phi_ratio": "phi's error over the prior's",
    "phi_calibration": "calibration",
    "seconds": "seconds",
}


def savings(seeds: int = SEEDS) -> list[Setting]:
    """The runs of the first table."""
    duck = view_prompt("a yellow duck")
    return [Setting(duck, "vsd", 1.0, seed=seed, decay=True, switch=one) for seed in range(seeds) for one in SAVING]


def rates() -> list[Setting]:
    """The runs of the second table."""
    return [
        Setting(view_prompt(prompt), "vsd", 2.0, 4, 0, 200, 1, lr, decay=True, switch=switch)
        for prompt, lr, switch in product(PROMPTS, RATES, ("", "adaptive"))
    ]


def write_report(measured: tuple[list[dict], dict[Setting, Tensor]], folder: Path) -> None:
    """Writes switches.md and switches.png, and prints the table.

    Args:
        measured: Rows and pictures, see `evaluation.claims_2d.measure_part`.
        folder: Where to.
    """
    rows, shown = measured
    rows = [row | {"switch": row["switch"] or "none"} for row in rows]
    intro = "VSD with decay; 8 particles at scale 1 where phi's learning rate is 0.003, 4 at scale 2 elsewhere."
    lines = grouped_table(rows, {"prompt": "prompt", "lr": "phi's lr", "switch": "switch"}, FIGURES)
    write_text(folder / "switches.md", [intro, "", *lines])
    strips = strips_of(shown, lambda run: f"{run.switch or 'no switch'}, phi's lr {run.lr:g}")
    save_strips(strips, folder / "switches.png")
