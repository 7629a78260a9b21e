"""Does phi's health foretell quality? VSD in 2D with phi trained too little, well and too much.

`vsd.health` needs no truth: it compares phi's error on fresh renders with the prior's. Here runs whose phi differs in
learning rate, steps per particle step and layers with a LoRA are measured against the prior's samples, and the rank
correlation of health and quality is taken over all runs.
"""

from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from evaluation.claims_2d import view_prompt
from evaluation.claims_pictures import save_strips, strips_of
from evaluation.claims_report import write_text
from evaluation.particles_2d import Setting

PROMPTS = ("a yellow duck", "a red car")
RATES, UPDATES, LAYERS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1, 2), ("attention", "all")
SCALE, PARTICLES, STEPS = 2.0, 4, 200
HEALTH, QUALITY = ("phi_ratio", "phi_calibration"), ("kid_prior", "part_recall", "patch_distance")
RESAMPLES = 2000  # of the bootstrap


def settings(quick: bool = False) -> list[Setting]:
    """The runs: all combinations of prompt, learning rate, K and layers; three of them if quick."""
    runs = [
        Setting(view_prompt(prompt), "vsd", SCALE, PARTICLES, 0, STEPS, updates, rate, layers)
        for updates, layers, rate, prompt in product(UPDATES, LAYERS, RATES, PROMPTS)
    ]
    return runs[::13] if quick else runs


def correlation(health: list[float], quality: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Spearman's rank correlation with its interval.

    Args:
        health: Of the runs.
        quality: Of the same runs.
        seed: Of the bootstrap.

    Returns:
        The correlation, and the bounds of its 95 % interval from a bootstrap over runs.
    """
    x, y = np.array(health), np.array(quality)
    draws = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    values = [spearmanr(x[d], y[d]).statistic for d in draws if len(set(x[d])) > 1 and len(set(y[d])) > 1]
    return (float(spearmanr(x, y).statistic), *(float(v) for v in np.quantile(values, (0.025, 0.975))))


def write_report(measured: tuple[list[dict], dict[Setting, Tensor]], folder: Path) -> None:
    """Writes phi.md, phi.png and phi-particles.png, and prints the table.

    Args:
        measured: Rows and pictures, see `evaluation.claims_2d.measure_part`.
        folder: Where to.
    """
    rows, shown = measured
    lines = [f"{len(rows)} runs of VSD in 2D; Spearman's correlation and its 95 % interval.", ""]
    lines += ["| health | quality | prompt | correlation | interval |", "|---|---|---|---|---|"]
    prompts = sorted({row["prompt"] for row in rows})
    for health, quality, prompt in product(HEALTH, QUALITY, prompts):
        pairs = [(r[health], r[quality]) for r in rows if r["prompt"] == prompt and r[quality] is not None]
        if len(pairs) < 3:
            continue
        value, low, high = correlation(*map(list, zip(*pairs, strict=True)))
        lines.append(f"| {health} | {quality} | {prompt} | {value:.2f} | {low:.2f} to {high:.2f} |")
    lines += ["", "| prompt | K | layers | learning rate | " + " | ".join(HEALTH + QUALITY) + " |", "|---" * 9 + "|"]
    for r in sorted(rows, key=lambda r: (r["prompt"], r["updates"], r["layers"], r["lr"])):
        figures = " | ".join("" if r[key] is None else f"{r[key]:.3f}" for key in HEALTH + QUALITY)
        lines.append(f"| {r['prompt']} | {r['updates']} | {r['layers']} | {r['lr']:g} | {figures} |")
    write_text(folder / "phi.md", lines)
    plot(rows, folder / "phi.png")
    ordered = {run: shown[run] for run in sorted(shown, key=lambda r: (r.prompt, r.kind, r.layers, r.updates, r.lr))}
    strips = strips_of(ordered, lambda run: f"{run.layers}, K {run.updates}, lr {run.lr:g}")
    save_strips(strips, folder / "phi-particles.png")


def plot(rows: list[dict], path: Path) -> None:
    """Quality over health, one point per run."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(HEALTH), figsize=(4.5 * len(HEALTH), 3.4))
    for axis, health in zip(axes, HEALTH, strict=True):
        for prompt in sorted({row["prompt"] for row in rows}):
            of_prompt = [row for row in rows if row["prompt"] == prompt]
            axis.scatter([r[health] for r in of_prompt], [r["kid_prior"] for r in of_prompt], label=prompt, s=14)
        axis.set_xlabel(health)
        axis.set_ylabel("KID to the prior's samples")
        axis.set_yscale("symlog", linthresh=0.1)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
