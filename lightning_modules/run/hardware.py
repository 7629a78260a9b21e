"""Whether a run has the hardware and the programs that it needs, told before anything is loaded."""

import time
from pathlib import Path

import imageio_ffmpeg
import torch
from jsonargparse import Namespace

from common.errors import InputError

TERAFLOP = 6.4  # of a guidance's step on one view with Stable Diffusion 2.1 at 512 px, benchmarks.guidance_step --flops
SMALL = 200 * 2**20  # bytes of a UNet's weights below which a CPU trains it in minutes
SIDE, TIMES = 1024, 3  # of the matrices by which a CPU is timed


def require_device(config: Namespace) -> None:
    """Checks that a large prior has a GPU, or that a CPU was asked for by name.

    Args:
        config: Of the subcommand fit.

    Raises:
        InputError: It has none; the message says how long a step would take.
    """
    if config.trainer.accelerator != "auto" or torch.cuda.is_available() or torch.backends.mps.is_available():
        return
    callbacks = config.trainer.callbacks
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        model = callback.get("init_args", Namespace()).get("model") if isinstance(callback, Namespace) else None
        if isinstance(model, str) and is_large(model):
            raise InputError(
                f"trainer.accelerator: no GPU is here, and a step with {model} takes about {seconds_of_a_step():.0f} s "
                "on this CPU; use a machine with a GPU, the toybox, or say --trainer.accelerator cpu"
            )


def _unknown(device: torch.device) -> str:
    """The name of a kind of device on which nothing has been run yet, empty for the others."""
    if device.type == "mps":
        return "mps (Apple)"
    return "ROCm (AMD)" if device.type == "cuda" and torch.version.hip else ""


def untested(device: torch.device) -> str:
    """A line about a device of a kind on which nothing has been run yet, empty for the others.

    Args:
        device: Of a run.
    """
    kind = _unknown(device)
    return f"warning: trainer.accelerator: on {kind} nothing has been run yet; see docs/cluster.md" if kind else ""


def require_kernels(device: torch.device, meshes: bool, hashed: bool) -> None:
    """Checks that a device can do what a stage computes.

    Args:
        device: Of the run.
        meshes: Whether the stage renders meshes.
        hashed: Whether its fields have hash grids.

    Raises:
        InputError: It cannot; the message names what can.
    """
    kind = _unknown(device)
    if meshes and kind:
        raise InputError(
            f"trainer.accelerator: rays meet meshes by warp, which knows CPUs and NVIDIA's GPUs, not {kind}; run the "
            "geometry and texture stages with --trainer.accelerator cpu"
        )
    if hashed and device.type == "mps":
        raise InputError(
            "model.field.encoding: a hash grid needs float64, which mps lacks; use dense, or --trainer.accelerator cpu"
        )


def is_large(model: str) -> bool:
    """Whether a prior is one of Stable Diffusion's size.

    Args:
        model: A folder, a hub id, or "toybox". What is not on the disk counts as large.
    """
    if model == "toybox":
        return False
    folder = Path(model)
    if not folder.is_dir():
        return not folder.is_absolute() and not model.startswith(".")  # a path that is missing is told elsewhere
    return sum(file.stat().st_size for file in (folder / "unet").glob("*.safetensors")) > SMALL


def seconds_of_a_step() -> float:
    """How long a step of Stable Diffusion takes on this CPU, by the speed of a product of matrices."""
    matrix = torch.ones(SIDE, SIDE)
    matrix @ matrix
    start = time.perf_counter()
    for _ in range(TIMES):
        matrix @ matrix
    return TERAFLOP * 1e12 * (time.perf_counter() - start) / (TIMES * 2 * SIDE**3)


def require_ffmpeg() -> None:
    """Checks that videos can be written.

    Raises:
        InputError: There is no ffmpeg.
    """
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError(
            "ffmpeg: it is not found, and turntables need it; pip install --force-reinstall imageio-ffmpeg, or name it "
            "in IMAGEIO_FFMPEG_EXE"
        ) from error
