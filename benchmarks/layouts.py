"""What a memory layout and a dtype cost on a CPU: python -m benchmarks.layouts [--threads 1].

Steps of the toybox: training its UNet and its autoencoder, forward and backward, under autocast as their configurations
do, and a step of the guidance on four views. Each is timed contiguous and channels last, in float32 and bfloat16, in
turn.
"""

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator

import torch
from diffusers.models.attention_processor import AttnProcessor

from benchmarks.guidance_step import guidance_step
from benchmarks.timing import interleaved
from vsd.prior import load_pipeline

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = (torch.float32, torch.bfloat16)


def unet_training(dtype: torch.dtype, layout: torch.memory_format, batch: int) -> Callable[[], None]:
    """Forward and backward of the toybox's UNet.

    Args:
        dtype: Of autocast.
        layout: Of weights and latents.
        batch: Latents of a step.

    Returns:
        The step.
    """
    unet = load_pipeline().unet.train().requires_grad_(True).to(memory_format=layout)
    unet.set_attn_processor(AttnProcessor())  # as in training on a CPU
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    noisy = torch.randn(batch, unet.config.in_channels, side, side).contiguous(memory_format=layout)
    t, text = torch.randint(0, 1000, (batch,)), torch.randn(batch, 16, width)

    def step() -> None:
        unet.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            predicted = unet(noisy, t, text).sample
        predicted.float().square().mean().backward()

    return step


def autoencoder_training(dtype: torch.dtype, layout: torch.memory_format, batch: int) -> Callable[[], None]:
    """Forward and backward of the toybox's autoencoder; arguments as for `unet_training`, of images."""
    vae = load_pipeline().vae.train().requires_grad_(True).to(memory_format=layout)
    images = torch.rand(batch, 3, vae.config.sample_size, vae.config.sample_size).contiguous(memory_format=layout)

    def step() -> None:
        vae.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample
        decoded.float().square().mean().backward()

    return step


def guidance(dtype: torch.dtype, layout: torch.memory_format, batch: int) -> Callable[[], None]:
    """A VSD step of the guidance; arguments as for `unet_training`, of views."""
    last = layout is torch.channels_last
    return guidance_step(copy.deepcopy(load_pipeline()), batch, "cpu", dtype, False, channels_last=last)


STEPS = {
    "UNet, training, batch 64": (unet_training, 64),
    "autoencoder, training, batch 16": (autoencoder_training, 16),
    "guidance, 4 views": (guidance, 4),
}


def table(repeats: int) -> Iterator[str]:
    """The lines of a Markdown table: medians in ms, and ratios to contiguous float32, turn by turn.

    Args:
        repeats: Of each form.
    """
    forms = [(dtype, name) for dtype in DTYPES for name in LAYOUTS]
    yield "| step | " + " | ".join(f"{str(dtype).removeprefix('torch.')}, {name}" for dtype, name in forms) + " |"
    yield "|---" * (len(forms) + 1) + "|"
    for label, (build, batch) in STEPS.items():
        first, *others = interleaved([build(dtype, LAYOUTS[name], batch) for dtype, name in forms], repeats)
        cells = [f"{1e3 * statistics.median(first):.0f} ms"]
        for times in others:
            ratio = statistics.median(ours / plain for ours, plain in zip(times, first, strict=True))
            cells.append(f"{1e3 * statistics.median(times):.0f} ms, {ratio:.2f}")
        yield "| " + " | ".join([label, *cells]) + " |"


def main(args: list[str] | None = None) -> None:
    """Prints the table.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="repetitions, at least 2 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    for line in table(options.repeats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
