"""The pictures of the claims: rows of particles under their names."""

from collections.abc import Callable
from math import ceil
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.files import atomic_write
from common.pixels import to_uint8
from evaluation.particles_2d import Setting

ROW = 8  # pictures side by side
NAME = 14  # pixels of a name's height


def strip(pictures: Tensor, rows: int = 1) -> Tensor:
    """Pictures side by side, eight to a row.

    Args:
        pictures: (N, 3, S, S).
        rows: How many rows at most; further pictures are left out.

    Returns:
        (H, W, 3), white where the last row has none.
    """
    shown = pictures[: rows * ROW]
    lines = [torch.cat(list(line), 2) for line in shown.split(ROW)]  # (3, S, at most 8 S)
    width = lines[0].shape[2]
    lines = [F.pad(line, (0, width - line.shape[2]), value=1.0) for line in lines]
    return torch.cat(lines, 1).permute(1, 2, 0)


def strips_of(shown: dict[Setting, Tensor], name: Callable[[Setting], str], rows: int = 1) -> dict[str, Tensor]:
    """Strips of the runs that were kept for the picture, in their order.

    Args:
        shown: Pictures (n, 3, S, S) by run, see `evaluation.claims_2d.measure_part`.
        name: What tells a run from the others of its prompt.
        rows: Of a strip, at most.

    Returns:
        Strips (H, W, 3) by prompt and name.
    """
    strips = {}
    for run, pictures in shown.items():
        what = f"the prior's samples, scale {run.scale:g}" if run.kind == "prior" else name(run)
        strips[f"{run.prompt}: {what}"] = strip(pictures, rows)
    return strips


def save_strips(strips: dict[str, Tensor], path: Path) -> None:
    """Writes the strips below each other, each under its name.

    Args:
        strips: (H, W, 3), by name.
        path: The PNG file.
    """
    font = ImageFont.load_default()
    width = max(max(strip.shape[1], 4 + ceil(font.getlength(name))) for name, strip in strips.items())
    sheet = Image.new("RGB", (width, sum(strip.shape[0] + NAME for strip in strips.values())), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for name, strip in strips.items():
        draw.text((2, top), name, "black", font)
        sheet.paste(Image.fromarray(to_uint8(strip).numpy()), (0, top + NAME - 1))
        top += strip.shape[0] + NAME
    with atomic_write(path) as part:
        sheet.save(part, "PNG")
