"""More particles in 2D: what they cost and what they change of the quality (see `evaluation.claims`).

VSD at its best 2D setting, scale 1 with a learning rate of the particles that falls to 0. One phi learns all particles,
and every particle makes the same number of steps, so that phi makes n / PER_STEP times as many.
"""

from pathlib import Path

from torch import Tensor

from evaluation.claims_2d import view_prompt
from evaluation.claims_pictures import save_strips, strips_of
from evaluation.claims_report import grouped_table, write_text
from evaluation.particles_2d import PER_STEP, Setting

PROMPT, SCALE = "a yellow duck", 1.0
PARTICLES, SEEDS = (1, 2, 4, 8, 16, 32, 64), 3
FIGURES = {
    "kid_prior": "KID to the prior's samples",
    "diversity_prior": "diversity over the prior's",
    "part_recall": "part recall",
    "sharpness": "sharpness",
    "patch_distance": "patch distance",
    "phi_ratio": "phi's error over the prior's",
    "phi_calibration": "calibration",
    "seconds": "seconds",
    "seconds_each": "seconds per particle",
}


def settings(quick: bool = False, seeds: int | None = None, particles: tuple[int, ...] = PARTICLES) -> list[Setting]:
    """The runs, few particles and the first seeds first.

    Args:
        quick: Whether up to eight particles and one seed are enough.
        seeds: How many seeds; None for one if quick, else SEEDS.
        particles: Numbers of particles.
    """
    counts = [n for n in particles if not quick or n <= PER_STEP]
    prompt = view_prompt(PROMPT)
    each = seeds or (1 if quick else SEEDS)
    return [Setting(prompt, "vsd", SCALE, n, seed, decay=True) for seed in range(each) for n in counts]


def write_report(measured: tuple[list[dict], dict[Setting, Tensor]], folder: Path) -> None:
    """Writes particles.md and particles.png, and prints the table.

    Args:
        measured: Rows and pictures, see `evaluation.claims_2d.measure_part`.
        folder: Where to.
    """
    rows, shown = measured
    rows = [row | {"seconds_each": row["seconds"] / row["particles"]} for row in rows]
    intro = f"VSD with decay at scale {SCALE:g}, up to {PER_STEP} particles in a step, equal steps of every particle."
    lines = grouped_table(rows, {"prompt": "prompt", "particles": "particles"}, FIGURES)
    write_text(folder / "particles.md", [intro, "", *lines])
    strips = strips_of(shown, lambda run: f"{run.particles} particles", rows=8)
    save_strips(strips, folder / "particles.png")
