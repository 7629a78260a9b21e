"""What a NeRF's render takes in memory: python -m benchmarks.render_cost [--size 512] [--chunks 0 65536 16384].

One view of a particle at its start, with the settings of configs/nerf.yaml, rendered on a CPU by torch, forward and
backward. The largest number of samples is in proportion to the pixels, 2^22 at 512 x 512: a smaller picture without
chunks takes its fraction of the memory. Memory is the most that tensors take at one time, and what is left of them
while the guidance runs, both without the particle itself; nerfacc's kernels and tiny-cuda-nn, where they are installed,
need less.
"""

import argparse
import time

import torch

from benchmarks.step_cost import GIB, Allocations
from common.randomness import generator
from scene.cameras import turntable
from scene.hashgrid import HashGrid
from scene.radiance_field import RadianceField
from scene.volume_rendering import VolumeRenderer

DISTANCE, FOVY = 1.25, 55.0  # the middle of the configuration's ranges


def render(chunk: int | None, size: int) -> tuple[int, float, float, float]:
    """Renders a view and computes its gradient.

    Args:
        chunk: Rays at once, None for all.
        size: Pixels of a side.

    Returns:
        Samples; GiB of the most, and of what the graph keeps; seconds.
    """
    torch.manual_seed(0)
    field = RadianceField(HashGrid(per_level_scale=256 ** (1 / 15)))
    renderer = VolumeRenderer(samples=512, max_samples=2**22 * size**2 // 512**2, chunk=chunk)
    renderer.update(0, field)
    origins, directions = turntable(1, 15.0, DISTANCE, FOVY).cameras(size).rays()
    jitter = torch.rand(len(origins), generator=generator("cpu", 0))
    start = time.perf_counter()
    with Allocations([*field.parameters(), *renderer.buffers()]) as counted:
        out = renderer(field, origins, directions, jitter)
        kept = counted.now
        (out.rgb.sum() + out.opacity.sum()).backward()
    return len(out.weights), counted.peak / GIB, kept / GIB, time.perf_counter() - start


def main(args: list[str] | None = None) -> None:
    """Prints a Markdown table.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels of a side (default: %(default)s)")
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 65536, 16384], help="rays at once; 0 for all")
    options = parser.parse_args(args)
    print("| rays at once | samples | most, GiB | kept for the backward, GiB | seconds |\n|---|---|---|---|---|")
    for chunk in options.chunks:
        count, most, kept, seconds = render(chunk or None, options.size)
        print(f"| {chunk or 'all'} | {count:,} | {most:.2f} | {kept:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
