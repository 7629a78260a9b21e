"""Draws a toybox prompt: python -m toybox "a red car" [--prior toybox] [--out car.png].

Rows of true renders, each of another instance: a turntable of eight views, or eight cameras of the prompt's view.
With --prior one more row shows samples of that diffusion prior for the same views.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.checks import require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from common.files import atomic_write
from common.pixels import to_uint8
from scene.cameras import Orbit, turntable
from toybox.world.captions import EITHER_SIDE, SIDES, VIEWS, caption, parse_prompt
from toybox.world.objects import build, stack
from toybox.world.render import render
from toybox.world.renders import CameraRanges
from vsd.prior import load_pipeline

COLUMNS = 8
SIZE = 128
LARGEST = 1000  # rows
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # formats by their endings


def cameras_of(view: str | None, seed: int) -> Orbit:
    """Eight cameras for a prompt.

    Args:
        view: The view words that they see, None for one turn.
        seed: Of the cameras.

    Returns:
        The cameras.
    """
    if view is None:
        return turntable(COLUMNS, distance=2.3)
    drawn = CameraRanges().sample(4000, np.random.default_rng(seed))
    words = [VIEWS.words[i] for i in VIEWS.index(drawn.azimuth, drawn.elevation)]
    fitting = [i for i, w in enumerate(words) if w == view or (view == EITHER_SIDE and w in SIDES)]
    return drawn[torch.tensor(fitting[:COLUMNS])]


def samples_of(prior: str, words: list[str], size: int) -> torch.Tensor:
    """Ancestral samples of a prior.

    Args:
        prior: A folder, or "toybox", the shipped prior.
        words: B prompts.
        size: Pixels of a side.

    Returns:
        (B, size, size, 3) in [0, 1].
    """
    pipeline = load_pipeline(prior, key="--prior")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline(words, guidance_scale=3.0, num_inference_steps=30, generator=generator, output_type="pt").images
    return torch.nn.functional.interpolate(images.float(), size=(size, size)).permute(0, 2, 3, 1)


def main(args: list[str] | None = None) -> None:
    """The command; exits with 2 and one line when an input is wrong.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(prog="toybox", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", help="a colour and an object, such as 'a red mushroom'")
    parser.add_argument("--rows", type=int, default=4, help="instances (default: %(default)s)")
    parser.add_argument("--prior", help="also draw samples: 'toybox', the shipped prior, or a folder")
    parser.add_argument("--out", type=a_path, default=Path("toybox.png"), help="picture (default: %(default)s)")
    with one_line("toybox"):
        options = parser.parse_args(args)
        name, colour, view = parse_prompt(options.prompt)
        require_range("--rows", options.rows, 1, LARGEST)
        require_place("--out", options.out.parent)
        kind = PICTURES.get(options.out.suffix.lower())
        if options.out.is_dir() or kind is None:
            raise InputError(f"--out: {options.out} is no picture; name a file that ends in {', '.join(PICTURES)}")
        sampled = []
        if options.prior:
            words = [view or s.words for s in VIEWS.sectors]
            sampled = [torch.cat(list(samples_of(options.prior, [caption(name, colour, w) for w in words], SIZE)), 1)]
        rows = []
        for seed in range(options.rows):
            truth = render(stack([build(name, colour, seed)] * COLUMNS), cameras_of(view, seed), SIZE)
            rows.append(torch.cat(list(truth.over(torch.ones(3))), 1))
        with atomic_write(options.out) as part:
            Image.fromarray(to_uint8(torch.cat(rows + sampled)).numpy()).save(
                part, PICTURES[options.out.suffix.lower()]
            )
        print(options.out)


if __name__ == "__main__":
    main()
