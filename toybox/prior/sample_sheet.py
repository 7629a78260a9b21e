"""One sheet of a prior's samples beside the truth, to look at."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from common.files import atomic_write
from common.pixels import to_uint8
from scene.cameras import turntable
from toybox.judges.views import SECTORS
from toybox.prior.banks import Prompt
from toybox.world.captions import VIEWS
from toybox.world.objects import OBJECTS, build, stack
from toybox.world.render import render
from toybox.world.renders import HELD_OUT


def sample_sheet(wanted: list[Prompt], samples: Tensor, path: Path) -> None:
    """Writes a PNG: rows of objects, columns of views; truth above, samples below.

    Args:
        wanted: B prompts, among them one colour of every object from all sectors.
        samples: Of the prompts, (B, 3, 64, 64) in [-1, 1].
        path: Of the PNG. Its folder is created.
    """
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
    with atomic_write(path) as part:
        sheet.save(part, "PNG")
