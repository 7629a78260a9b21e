"""Contact sheets: rows of pictures with names, columns of views."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from common.files import atomic_write
from common.pixels import to_uint8
from evaluation.pictures import Pictures
from scene.cameras import Orbit
from toybox.world.captions import VIEWS

LEFT, TOP = 150, 16  # pixels of the names' margins


def contact_sheet(rows: dict[str, Pictures], cameras: Orbit, path: Path, scale: int = 2) -> None:
    """Writes a sheet: a row per object, a column per view.

    Args:
        rows: Sets by name; the objects of a set of several are numbered.
        cameras: Of the columns.
        path: The PNG file.
        scale: Pixels of the sheet per pixel of a picture.
    """
    names = [name if len(p) == 1 else f"{name} {i}" for name, p in rows.items() for i in range(len(p))]
    strips = torch.cat([p.rgb for p in rows.values()])  # (R, V, 3, S, S)
    count, views, _, size, _ = strips.shape
    grid = strips.permute(2, 0, 3, 1, 4).reshape(3, count * size, views * size)
    grid = F.interpolate(grid[None], scale_factor=scale)[0].permute(1, 2, 0)
    side = size * scale
    sheet = Image.new("RGB", (views * side + LEFT, count * side + TOP), "white")
    sheet.paste(Image.fromarray(to_uint8(grid).numpy()), (LEFT, TOP))
    draw = ImageDraw.Draw(sheet)
    for k, index in enumerate(VIEWS.index(cameras.azimuth, cameras.elevation)):
        draw.text((LEFT + k * side + 2, 2), VIEWS.words[index].removesuffix(" view"), "black")
    for i, name in enumerate(names):
        draw.text((4, TOP + i * side + side // 2), name, "black")
    with atomic_write(path) as part:
        sheet.save(part, "PNG")
