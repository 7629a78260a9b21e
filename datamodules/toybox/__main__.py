"""True renders of a toybox prompt: python -m datamodules.toybox "a red car, front left view" [--out car.png]

Without view words the picture is a turntable of eight views a row, with them eight cameras of that view; each row is
another instance.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.toybox.captions import EITHER_SIDE, SIDES, VIEWS, parse_prompt
from datamodules.toybox.objects import build, stack
from datamodules.toybox.render import render
from datamodules.toybox.renders import CameraRanges
from scene.cameras import Orbit, turntable
from vsd.errors import InputError

COLUMNS = 8


def cameras_of(view: str | None, seed: int) -> Orbit:
    """Eight cameras that see the given view words, or one turn for None."""
    if view is None:
        return turntable(COLUMNS, distance=2.3)
    drawn = CameraRanges().sample(4000, np.random.default_rng(seed))
    words = [VIEWS.words[i] for i in VIEWS.index(drawn.azimuth, drawn.elevation)]
    fitting = [i for i, w in enumerate(words) if w == view or (view == EITHER_SIDE and w in SIDES)]
    return drawn[torch.tensor(fitting[:COLUMNS])]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--rows", type=int, default=4, help="instances (default: %(default)s)")
    parser.add_argument("--out", default="toybox.png", help="picture to write (default: %(default)s)")
    options = parser.parse_args(args)
    try:
        name, colour, view = parse_prompt(options.prompt)
        if options.rows < 1:
            raise InputError(f"--rows: {options.rows}; at least 1 is needed")
    except InputError as error:
        print(f"toybox: {error}", file=sys.stderr)
        sys.exit(2)
    rows = []
    for seed in range(options.rows):
        made = render(stack([build(name, colour, seed)] * COLUMNS), cameras_of(view, seed), size=128)
        rows.append(torch.cat(list(made.over(torch.ones(3))), 1))
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(rows).clamp(0, 1) * 255).byte().numpy()).save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
