"""Pictures and videos of a run, as files."""

from pathlib import Path

import imageio.v3 as iio
import torch
from PIL import Image
from torch import Tensor

from common.pixels import to_uint8


def save_picture(images: Tensor, path: Path) -> None:
    """Writes an image (H, W, 3) in [0, 1] as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_uint8(images).numpy()).save(path)


def contact_sheet(frames: list[Tensor], columns: int, views: int = 8) -> Tensor:
    """Evenly spaced frames of a turn side by side, the first one first.

    frames: each `columns` squares (S, columns S, 3) side by side; the sheet is (columns S, views S, 3), a row a column.
    """
    chosen = [frames[i * len(frames) // views] for i in range(min(views, len(frames)))]
    return torch.cat([torch.cat(list(f.chunk(columns, 1))) for f in chosen], 1)


def save_video(frames: Tensor, path: Path, fps: int = 30) -> None:
    """Writes frames (T, H, W, 3) in [0, 1] as H.264; sides are cut to even numbers of pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    pixels = to_uint8(frames[:, :height, :width]).numpy()
    iio.imwrite(path, pixels, fps=fps, codec="libx264", macro_block_size=2, plugin="FFMPEG")
