"""What the cameras do in 3D (see `evaluation.claims`): a phi that is told less of them, and cameras that are wrong.

The toybox's NeRF preset with one thing changed: how often phi's camera is hidden in its training, phi without a camera,
cameras where the prior has never seen an object, and prompts without the words of the view.
"""

from pathlib import Path

import torch

from evaluation.claims_3d import Table3D
from evaluation.claims_pictures import save_strips, strip
from evaluation.claims_report import grouped_table, write_text
from evaluation.particles_3d import VARIANTS, Setting3D, particles_3d

PROMPTS, SEEDS, STEPS = ("a yellow duck", "a red house"), 3, 450
FIGURES = {
    "kid_prior": "KID to the prior's samples",
    "part_recall": "part recall",
    "false_parts": "false parts",
    "janus": "Janus rate",
    "sharpness": "sharpness",
    "truth_score": "L1 score",
    "phi_ratio": "phi's error over the prior's",
    "phi_calibration": "calibration",
}


def settings(quick: bool = False, seeds: int | None = None) -> list[Setting3D]:
    """The runs, seeds last.

    Args:
        quick: Whether the first prompt and one seed are enough.
        seeds: How many seeds; None for one if quick, else SEEDS.
    """
    prompts, usual = (PROMPTS[:1], 1) if quick else (PROMPTS, SEEDS)
    return [
        Setting3D(prompt, "vsd-0.75", 3.0, 1, seed, STEPS, variant)
        for seed in range(seeds or usual)
        for prompt in prompts
        for variant in VARIANTS
    ]


def measure(runs: list[Setting3D], folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Runs and measures.

    Args:
        runs: The settings.
        folder: Of their files.

    Returns:
        One row per run, and by prompt and variant a row of pictures (H, W, 3) of the first seed.
    """
    table, rows, strips = Table3D(), [], {}
    for number, setting in enumerate(runs, 1):
        pictures, run = particles_3d(setting, folder)
        rows.append(table.row(setting, pictures, run))
        if setting.seed == 0:
            strips[f"{setting.prompt}, {setting.variant or 'as the preset'}"] = strip(pictures.rgb[0])
        print(f"cameras {number}/{len(runs)}  {setting.key}  {run['seconds']:.0f} s", flush=True)
    return rows, strips


def write_report(measured: tuple[list[dict], dict[str, torch.Tensor]], folder: Path) -> None:
    """Writes cameras.md and cameras-views.png, and prints the table.

    Args:
        measured: Rows and pictures, see `measure`.
        folder: Where to.
    """
    rows, strips = measured
    rows = [row | {"variant": row["variant"] or "as the preset"} for row in rows]
    lines = grouped_table(rows, {"prompt": "prompt", "variant": "cameras"}, FIGURES)
    write_text(folder / "cameras.md", [f"The NeRF preset in {STEPS} steps, one particle.", "", *lines])
    save_strips(strips, folder / "cameras-views.png")
