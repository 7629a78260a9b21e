"""Pictures and videos of a run, as files."""

from pathlib import Path

import imageio.v3 as iio
import torch
from PIL import Image
from torch import Tensor

from common.pixels import to_uint8


def save_picture(image: Tensor, path: Path) -> None:
    """Writes an image as a file.

    Args:
        image: (H, W, 3), uint8, or floats in [0, 1].
        path: Of the file, whose ending names the format. Its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_to_bytes(image).numpy()).save(path)


def contact_sheet(frames: list[Tensor], columns: int, views: int = 8) -> Tensor:
    """Evenly spaced frames of a turn side by side, the first one first.

    Args:
        frames: Each a row of `columns` squares, (S, columns S, 3).
        columns: Squares of a frame.
        views: Largest number of frames in the sheet.

    Returns:
        (columns S, views S, 3), each square of a frame in a row of its own.
    """
    chosen = [frames[i * len(frames) // views] for i in range(min(views, len(frames)))]
    return torch.cat([torch.cat(list(f.chunk(columns, 1))) for f in chosen], 1)


def save_video(frames: Tensor, path: Path, fps: int = 30) -> None:
    """Writes a video as H.264.

    Args:
        frames: (T, H, W, 3), uint8, or floats in [0, 1]. Sides are cut to even numbers of pixels.
        path: Of the file. Its folder is created.
        fps: Frames per second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    pixels = _to_bytes(frames[:, :height, :width]).numpy()
    iio.imwrite(path, pixels, fps=fps, codec="libx264", macro_block_size=2, plugin="FFMPEG")


def _to_bytes(images: Tensor) -> Tensor:
    return to_uint8(images) if images.is_floating_point() else images
