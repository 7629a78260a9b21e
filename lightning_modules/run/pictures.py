"""Pictures and videos of a run, as files."""

import errno
from pathlib import Path

import imageio.v3 as iio
import torch
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image
from torch import Tensor

from common.files import atomic_write
from common.pixels import to_uint8
from lightning_modules.run.folder import DREAM


def save_picture(image: Tensor, path: Path) -> None:
    """Writes an image as a file.

    Args:
        image: (H, W, 3), uint8, or floats in [0, 1].
        path: Of the file, whose ending names the format. Its folder is created.
    """
    with atomic_write(path) as part:
        Image.fromarray(_to_bytes(image).numpy()).save(part, Image.registered_extensions()[path.suffix.lower()])


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

    Raises:
        OSError: It could not be written whole.
    """
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    pixels = _to_bytes(frames[:, :height, :width]).numpy()
    more = {"macro_block_size": 2, "ffmpeg_log_level": "quiet", "output_params": ["-f", "mp4"]}
    with atomic_write(path) as part:
        try:
            iio.imwrite(part, pixels, fps=fps, codec="libx264", plugin="FFMPEG", extension=".mp4", **more)
        except OSError as error:
            if error.errno != errno.EPIPE:  # of an ffmpeg that has ended
                raise
        # On a full disk ffmpeg ends with a code that imageio does not look at.
        if not part.exists() or not _is_whole(part.read_bytes()):
            raise OSError(errno.EIO, "the video is cut short; is the disk full?", str(path))


def finished(folder: Path) -> dict[str, Path]:
    """The folders of the stages of `dream` that have finished, by stage, the last one first.

    Args:
        folder: Of the stage that trains.
    """
    if not (folder.parent / DREAM).exists():
        return {}
    videos = sorted(folder.parent.glob("*/turntable-particle0.mp4"), key=lambda file: -file.stat().st_mtime)
    return {video.parent.name: video.parent for video in videos if video.parent != folder}


def turntable_frame(folder: Path, particle: int, azimuth: float) -> Tensor:
    """The picture of a turntable that is nearest to a direction, (S, k S, 3), uint8.

    Args:
        folder: Of a stage that has finished.
        particle: Which.
        azimuth: Degrees.
    """
    file = folder / f"turntable-particle{particle}.mp4"
    count, _ = count_frames_and_secs(file)
    return torch.from_numpy(iio.imread(file, index=round(azimuth / 360 * count) % count))


def _is_whole(data: bytes) -> bool:
    """Whether the boxes of an MP4 file end where it ends, and its index, which is written last, is there."""
    at, names = 0, set()
    while at + 8 <= len(data):
        names.add(data[at + 4 : at + 8])
        at += max(8, int.from_bytes(data[at : at + 4]))
    return at == len(data) and b"moov" in names


def _to_bytes(images: Tensor) -> Tensor:
    return to_uint8(images) if images.is_floating_point() else images
