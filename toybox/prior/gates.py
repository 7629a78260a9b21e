"""Is the toybox prior good enough to distill? python -m toybox.prior.gates [--prior FOLDER] [--out FOLDER]

Prints one table with the goal beside each figure, writes toybox_samples.png, and exits with 1 if a figure falls short.
Everything is measured on instances that no training has seen; the view judge is trained on truth alone.
--fast takes a few of everything: a check of the plumbing, not of the prior.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from torch import Tensor

from common.errors import InputError
from common.pixels import to_uint8
from scene.cameras import turntable
from toybox.judges.views import SECTORS, ViewClassifier, cached_view_classifier, held_out_accuracy
from toybox.prior import metrics
from toybox.world.captions import VIEWS, caption
from toybox.world.objects import COLOURS, OBJECTS, WITH_FRONT, build, stack
from toybox.world.render import render
from toybox.world.renders import HELD_OUT, load_renders, random_backgrounds
from vsd.prior import TOYBOX, load_pipeline

GUIDANCE = 3.0
RESCALE = 0.7  # goes with zero terminal SNR: Lin et al. 2023, section 3.4
TIMESTEPS = (300, 600, 850)


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    train: int = 61440  # renders the view judge learns from
    held_out: int = 3840
    classifier_steps: int = 3500
    wrong_words: int = 768  # images
    samples: int = 3  # per prompt and view
    bank: int = 64  # true instances per prompt and view
    steps: int = 30  # of the sampler


FAST = Sizes(train=96, held_out=96, classifier_steps=2, wrong_words=32, samples=1, bank=2, steps=2)


class Table:
    """Rows of figures beside their goals; remembers the ones that fall short."""

    def __init__(self):
        self.missed: list[str] = []
        print(f"{'figure':<52}{'value':>10}{'goal':>12}")

    def row(self, name: str, value: float, goal: str = "", percent: bool = False) -> None:
        """goal: '>= x', '<= x' or empty for a figure that is only reported."""
        shown = f"{100 * value:.1f} %" if percent else f"{value:.3f}"
        met = True
        if goal:
            relation, bound = goal.split()
            met = value >= float(bound) if relation == ">=" else value <= float(bound)
            goal = f"{relation} {100 * float(bound):.0f} %" if percent else goal
        print(f"{name:<52}{shown:>10}{goal:>12}{'' if met else '   MISSED'}", flush=True)
        if not met:
            self.missed.append(name)


def prompts_to_sample(per_view: int) -> list[tuple[str, str, int]]:
    """(object, colour, sector) of every sample: each object in two colours that differ from object to object."""
    colours = list(COLOURS)
    return [
        (name, colours[(k + shift) % len(colours)], sector)
        for k, name in enumerate(OBJECTS)
        for shift in (0, 3)
        for sector in range(SECTORS)
        for _ in range(per_view)
    ]


def gate_views(table: Table, judge: ViewClassifier, wanted: list[tuple[str, str, int]], samples: Tensor) -> None:
    verdict = judge(samples).argmax(1)
    asked = torch.tensor([sector for _, _, sector in wanted])
    for name in WITH_FRONT:
        rows = torch.tensor([n == name for n, _, _ in wanted])
        table.row(
            f"view seen in samples, {name}", float((verdict == asked)[rows].float().mean()), ">= 0.90", percent=True
        )


def gate_samples(table: Table, wanted: list[tuple[str, str, int]], samples: Tensor, bank: int) -> tuple[Tensor, Tensor]:
    """Nearest-instance distances of samples and of as many real renders; returns two sets of such renders."""
    fake: dict[tuple[str, str], list[float]] = {}
    real: dict[tuple[str, str], list[float]] = {}
    sets: tuple[list[Tensor], list[Tensor]] = ([], [])
    rng = np.random.default_rng(5)
    for key in dict.fromkeys(wanted):
        rows = [i for i, w in enumerate(wanted) if w == key]
        name, colour, sector = key
        rgb, alpha = metrics.truth_bank(name, colour, sector, bank + 2 * len(rows), first=0)
        background = random_backgrounds(2 * len(rows), rng)[:, :, None, None]
        renders = 2 * (rgb[bank:] + (1 - alpha[bank:]) * background) - 1
        for kept, part in zip(sets, renders.chunk(2), strict=True):
            kept.append(part)
        for images, distances in ((samples[rows], fake), (renders[: len(rows)], real)):
            found = [metrics.nearest_instance_l1(image, rgb[:bank], alpha[:bank]) for image in images]
            distances.setdefault(key[:2], []).extend(found)
    ratios = {key: float(np.mean(fake[key]) / np.mean(real[key])) for key in fake}
    for (name, colour), ratio in ratios.items():
        table.row(f"nearest-instance L1 over real's, {caption(name, colour)}", ratio, "<= 1.5")
    table.row("nearest-instance L1 over real's, mean of prompts", float(np.mean(list(ratios.values()))))
    return torch.cat(sets[0]), torch.cat(sets[1])


def picture(wanted: list[tuple[str, str, int]], samples: Tensor, path: Path) -> None:
    """Rows of objects, columns of views; truth above, samples below."""
    rows = []
    for name in OBJECTS:
        colour = next(c for n, c, _ in wanted if n == name)
        solids = stack([build(name, colour, HELD_OUT + 77)] * SECTORS)
        truth = render(solids, turntable(SECTORS, distance=2.3)).over(torch.ones(3))
        drawn = torch.stack([samples[wanted.index((name, colour, s))] for s in range(SECTORS)])
        for images in (truth, ((drawn + 1) / 2).permute(0, 2, 3, 1)):
            rows.append(torch.cat(list(images), 1))
    image = Image.fromarray(to_uint8(torch.cat(rows)).numpy())
    sheet = Image.new("RGB", (image.width + 70, image.height + 16), "white")
    sheet.paste(image, (70, 16))
    draw = ImageDraw.Draw(sheet)
    for k, sector in enumerate(VIEWS.sectors):
        draw.text((72 + 64 * k, 2), sector.words.removesuffix(" view"), "black")
    for k, name in enumerate(OBJECTS):
        draw.text((4, 16 + 128 * k + 28), f"{name}\n(truth)", "black")
        draw.text((4, 16 + 128 * k + 92), "sample", "black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


@torch.no_grad()
def run(pipeline: StableDiffusionPipeline, sizes: Sizes, out: Path) -> list[str]:
    """Prints the table, writes the picture; the names of the figures that fall short."""
    table = Table()
    held_out = load_renders(sizes.held_out, held_out=True)
    with torch.enable_grad():
        judge = cached_view_classifier(load_renders(sizes.train), sizes.classifier_steps)
    for name, accuracy in held_out_accuracy(judge, held_out).items():
        table.row(f"view judge's accuracy on held-out truth, {name}", accuracy, ">= 0.95", percent=True)

    index = torch.arange(min(sizes.wrong_words, len(held_out)))
    for t in TIMESTEPS:
        rise = metrics.wrong_word_rise(pipeline, held_out, index, t)
        table.row(f"eps-MSE rise, wrong view, t = {t}", rise["view"], ">= 0.05" if t == 850 else "", percent=True)
        table.row(f"eps-MSE rise, wrong object, t = {t}", rise["object"], ">= 0.20", percent=True)
        table.row(f"eps-MSE rise, wrong colour, t = {t}", rise["colour"], ">= 0.20", percent=True)

    images = held_out.images(index, random_backgrounds(len(index), np.random.default_rng(2)))
    table.row("autoencoder PSNR, dB", metrics.autoencoder_psnr(pipeline, images), ">= 32")
    for word, accuracy in metrics.retrieval_accuracy(pipeline, held_out, index).items():
        table.row(f"image encoder's retrieval, {word}", accuracy, percent=True)

    wanted = prompts_to_sample(sizes.samples)
    texts = [caption(name, colour, VIEWS.sectors[sector].words) for name, colour, sector in wanted]
    samples = metrics.sample(pipeline, texts, GUIDANCE, sizes.steps, RESCALE)
    picture(wanted, samples, out / "toybox_samples.png")
    gate_views(table, judge, wanted, samples)
    first, second = gate_samples(table, wanted, samples, sizes.bank)
    features = [metrics.image_features(pipeline, images) for images in (samples, first, second)]
    table.row("Frechet distance of image features, samples to real", metrics.frechet_distance(features[0], features[1]))
    table.row("Frechet distance of image features, real to real", metrics.frechet_distance(features[2], features[1]))
    return table.missed


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default=TOYBOX, help="a folder, a hub id, or 'toybox', the shipped prior (default)")
    parser.add_argument("--out", default="runs/gates", help="folder of toybox_samples.png (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="a few of everything, to check the plumbing")
    options = parser.parse_args(args)
    start = time.time()
    try:
        missed = run(load_pipeline(options.prior), FAST if options.fast else Sizes(), Path(options.out))
    except InputError as error:
        print(f"gates: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{len(missed)} figures fall short; {time.time() - start:.0f} s; {options.out}/toybox_samples.png")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
