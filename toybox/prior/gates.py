"""Measures whether the toybox prior is good enough to distill.

    python -m toybox.prior.gates [--prior FOLDER] [--out FOLDER] [--guidance-scale S] [--rescale R] [--quick]

Prints one table with the goal beside each figure, writes toybox_samples.png, and exits with 1 if a figure falls short.
Everything is measured on instances that no training has seen; the view judge is trained on truth alone. True renders
and the judge are kept in the cache folder, so that a second run takes less time.
--quick measures the same on fewer samples and with a judge that has learned less: figures scatter, and those of the
views are lower.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from common.checks import require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from toybox.judges.views import SECTORS, ViewClassifier, cached_view_classifier, held_out_accuracy
from toybox.prior import metrics
from toybox.prior.banks import Prompt, load_banks
from toybox.prior.sample_sheet import sample_sheet
from toybox.world.captions import VIEWS, caption
from toybox.world.objects import COLOURS, OBJECTS, WITH_FRONT
from toybox.world.renders import Renders, load_renders, random_backgrounds
from vsd.prior import TOYBOX, load_pipeline, toybox_folder

GUIDANCE = 2.0  # of 1, 1.5, 2 and 3 that whose samples were nearest to true instances, with earlier weights
RESCALE = 0.7  # goes with zero terminal SNR: Lin et al. 2023, section 3.4
TIMESTEPS = (300, 600, 850)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        train: Renders that the view judge learns from.
        held_out: True renders that judge, autoencoder, UNet and image tower are measured on, at most.
        judge_steps: Training steps of the view judge.
        images: Of the held-out renders, those that the prior's own networks see.
        colours: Per object in the prompts to sample, 1 or 2.
        samples: Per prompt and view.
        bank: True instances per prompt and view.
        steps: Of the sampler.
    """

    train: int = 61440
    held_out: int = 3840
    judge_steps: int = 3500
    images: int = 768
    colours: int = 2
    samples: int = 3
    bank: int = 64
    steps: int = 30


QUICK = Sizes(train=1920, held_out=240, judge_steps=200, images=64, colours=1, samples=1, bank=8, steps=12)


class Table:
    """Rows of figures beside their goals; `missed` has the names of those that fall short."""

    def __init__(self):
        self.missed: list[str] = []
        print(f"{'figure':<52}{'value':>10}{'goal':>12}")

    def row(self, name: str, value: float, goal: str = "", percent: bool = False) -> None:
        """Prints a row.

        Args:
            name: Of the figure.
            value: Of the figure.
            goal: ">= x", "<= x", or empty for a figure that is only reported.
            percent: Print value and goal in percent.
        """
        shown = f"{100 * value:.1f} %" if percent else f"{value:.3f}"
        met = True
        if goal:
            relation, bound = goal.split()
            met = value >= float(bound) if relation == ">=" else value <= float(bound)
            goal = f"{relation} {100 * float(bound):.0f} %" if percent else goal
        print(f"{name:<52}{shown:>10}{goal:>12}{'' if met else '   MISSED'}", flush=True)
        if not met:
            self.missed.append(name)


def prompts_to_sample(sizes: Sizes) -> list[Prompt]:
    """The prompt of every sample: each object in colours that differ from object to object, from all sectors."""
    colours = list(COLOURS)
    return [
        (name, colours[(k + shift) % len(colours)], sector)
        for k, name in enumerate(OBJECTS)
        for shift in (0, 3)[: sizes.colours]
        for sector in range(SECTORS)
        for _ in range(sizes.samples)
    ]


def gate_views(table: Table, judge: ViewClassifier, wanted: list[Prompt], samples: Tensor) -> None:
    """Rows of how often the judge sees the view that was asked for."""
    verdict = judge(samples).argmax(1)
    asked = torch.tensor([sector for _, _, sector in wanted])
    for name in WITH_FRONT:
        rows = torch.tensor([n == name for n, _, _ in wanted])
        table.row(
            f"view seen in samples, {name}", float((verdict == asked)[rows].float().mean()), ">= 0.97", percent=True
        )


def gate_samples(table: Table, wanted: list[Prompt], samples: Tensor, bank: int) -> tuple[Tensor, Tensor]:
    """Rows of the distances of samples to their nearest instances, over those of as many real renders.

    Args:
        table: Gets a row per prompt.
        wanted: B prompts.
        samples: (B, 3, S, S) in [-1, 1].
        bank: True instances per prompt.

    Returns:
        Two sets of real renders (B, 3, S, S) in [-1, 1] of the same prompts.
    """
    fake: dict[tuple[str, str], list[float]] = {}
    real: dict[tuple[str, str], list[float]] = {}
    sets: tuple[list[Tensor], list[Tensor]] = ([], [])
    rng = np.random.default_rng(5)
    keys = list(dict.fromkeys(wanted))
    repeats = len(wanted) // len(keys)
    banks = load_banks(keys, bank + 2 * repeats)
    for key, rgba in zip(keys, banks, strict=True):
        rows = [i for i, w in enumerate(wanted) if w == key]
        rgb, alpha = (rgba.float() / 255).split([3, 1], 1)
        background = random_backgrounds(2 * repeats, rng)[:, :, None, None]
        renders = 2 * (rgb[bank:] + (1 - alpha[bank:]) * background) - 1
        for kept, part in zip(sets, renders.chunk(2), strict=True):
            kept.append(part)
        for images, distances in ((samples[rows], fake), (renders[:repeats], real)):
            found = [metrics.nearest_instance_l1(image, rgb[:bank], alpha[:bank]) for image in images]
            distances.setdefault(key[:2], []).extend(found)
    ratios = {key: float(np.mean(fake[key]) / np.mean(real[key])) for key in fake}
    for (name, colour), ratio in ratios.items():
        table.row(f"nearest-instance L1 over real's, {caption(name, colour)}", ratio, "<= 1.25")
    table.row("nearest-instance L1 over real's, mean of prompts", float(np.mean(list(ratios.values()))))
    return torch.cat(sets[0]), torch.cat(sets[1])


def gate_files(table: Table, folder: Path) -> None:
    """A row of the size of all files of a prior."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    table.row("all files of the prior, MB", size / 1e6, "<= 17")


def gate_networks(table: Table, pipeline: StableDiffusionPipeline, held_out: Renders, count: int) -> None:
    """Rows of UNet, autoencoder and image tower on `count` held-out renders."""
    index = torch.arange(min(count, len(held_out)))
    for t, rise in zip(TIMESTEPS, metrics.wrong_word_rise(pipeline, held_out, index, TIMESTEPS), strict=True):
        table.row(f"eps-MSE rise, wrong view, t = {t}", rise["view"], ">= 0.05" if t == 850 else "", percent=True)
        table.row(f"eps-MSE rise, wrong object, t = {t}", rise["object"], ">= 0.20", percent=True)
        table.row(f"eps-MSE rise, wrong colour, t = {t}", rise["colour"], ">= 0.20", percent=True)
    images = held_out.images(index, random_backgrounds(len(index), np.random.default_rng(2)))
    table.row("autoencoder PSNR, dB", metrics.autoencoder_psnr(pipeline, images), ">= 35")
    for word, accuracy in metrics.retrieval_accuracy(pipeline, held_out, index).items():
        table.row(f"image tower's retrieval, {word}", accuracy, ">= 0.90" if word == "view" else "", percent=True)


@torch.no_grad()
def run(
    pipeline: StableDiffusionPipeline,
    sizes: Sizes,
    out: Path,
    folder: Path | None = None,
    guidance_scale: float = GUIDANCE,
    rescale: float = RESCALE,
) -> list[str]:
    """Prints the table and writes the picture.

    Args:
        pipeline: The prior.
        sizes: How much is measured.
        out: Folder of toybox_samples.png.
        folder: Of the prior's files, if it has one.
        guidance_scale: Of classifier-free guidance in the samples, >= 1; 1 is the conditional model.
        rescale: Guidance rescale of the samples, in [0, 1] (Lin et al. 2023, equations 15 and 16).

    Returns:
        The names of the figures that fall short.
    """
    table = Table()
    held_out = load_renders(sizes.held_out, held_out=True)
    if folder is not None:
        gate_files(table, folder)
    gate_networks(table, pipeline, held_out, sizes.images)

    wanted = prompts_to_sample(sizes)
    texts = [caption(name, colour, VIEWS.sectors[sector].words) for name, colour, sector in wanted]
    samples = metrics.sample(pipeline, texts, guidance_scale, sizes.steps, rescale)
    sample_sheet(wanted, samples, out / "toybox_samples.png")
    with torch.enable_grad():
        judge = cached_view_classifier(load_renders(sizes.train), sizes.judge_steps)
    for name, accuracy in held_out_accuracy(judge, held_out).items():
        table.row(f"view judge's accuracy on held-out truth, {name}", accuracy, ">= 0.95", percent=True)
    gate_views(table, judge, wanted, samples)
    first, second = gate_samples(table, wanted, samples, sizes.bank)
    features = [metrics.image_features(pipeline, images) for images in (samples, first, second)]
    fake, real = (metrics.frechet_distance(features[k], features[1]) for k in (0, 2))
    table.row("Frechet distance of image features, samples to real", fake)
    table.row("Frechet distance of image features, real to real", real)
    table.row("Frechet distance, samples to real over real to real", fake / real, "<= 1.3")
    return table.missed


def main(args: list[str] | None = None) -> None:
    """The command."""
    parser = OneLineArguments(prog="gates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default=TOYBOX, help="a folder, a hub id, or 'toybox', the shipped prior (default)")
    parser.add_argument(
        "--out", type=a_path, default=Path("runs/gates"), help="folder of toybox_samples.png (default: %(default)s)"
    )
    parser.add_argument(
        "--guidance-scale", type=float, default=GUIDANCE, help="of the samples, at least 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--rescale", type=float, default=RESCALE, help="guidance rescale, from 0 to 1 (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples, about a minute on one core")
    start = time.time()
    with one_line("gates"):
        options = parser.parse_args(args)
        require_place("--out", options.out)
        require_range("--guidance-scale", options.guidance_scale, 1)
        require_range("--rescale", options.rescale, 0, 1)
        folder = toybox_folder() if options.prior == TOYBOX else Path(options.prior)
        sizes = QUICK if options.quick else Sizes()
        missed = run(
            load_pipeline(options.prior, key="--prior"),
            sizes,
            options.out,
            folder if folder.is_dir() else None,
            options.guidance_scale,
            options.rescale,
        )
    print(f"{len(missed)} figures fall short; {time.time() - start:.0f} s; {options.out}/toybox_samples.png")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
