"""Whether torch.compile is right on a device, and what it gains: python -m benchmarks.compile_check [--device cuda].

Asks for what `guidance.savings.compile` asks for: the prior's and phi's passes, compiled, must have the plain ones'
losses and gradients. Prints the refusal, or times a VSD step with and without the compiled UNets.
"""

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.step_timer import FIGURE
from benchmarks.timing import interleaved, row
from common.errors import InputError
from vsd.guidance import VSDGuidance
from vsd.prior import TOYBOX, DiffusionPrior
from vsd.savings import Savings
from vsd.timesteps import Timesteps
from vsd.views import View


def steps(guidance: VSDGuidance, views: int) -> list[Callable[[], None]]:
    """A VSD step with the plain UNet, and one with the compiled one.

    Args:
        guidance: Prepared, with compiled UNets.
        views: B, of a step.
    """
    prior = guidance.core.prior
    compiled, device = prior.network, prior.device
    images = torch.rand(views, 3, prior.image_size, prior.image_size, device=device, requires_grad=True)
    angles = torch.zeros(views)
    view = View(torch.eye(4, device=device).repeat(views, 1, 1), angles, angles)

    def step(network: Callable) -> None:
        prior.network, images.grad = network, None
        guidance.particle_loss(images, view, torch.zeros(views, dtype=torch.long)).backward()
        guidance.update_score()

    return [lambda: step(prior.unet), lambda: step(compiled)]


def main(args: list[str] | None = None) -> None:
    """The command.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TOYBOX, help="folder, hub id, or toybox (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--views", type=int, default=1, help="of a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="repetitions, at least 2 (default: %(default)s)")
    options = parser.parse_args(args)
    guidance = VSDGuidance(
        "a red car", Timesteps(10), options.model, dtype=options.dtype, savings=Savings(compile=True)
    )
    prior, start = DiffusionPrior.load(options.model, options.device, guidance.dtype), time.monotonic()
    try:
        guidance.prepare(prior)
    except InputError as refusal:
        print(f"{FIGURE}refused after {time.monotonic() - start:.0f} s: {refusal}", flush=True)
        return
    print(f"{FIGURE}compiled and verified in {time.monotonic() - start:.0f} s", flush=True)
    plain, compiled = interleaved(steps(guidance, options.views), options.repeats, options.device)
    row("VSD step", plain)
    row("VSD step, compiled UNets", compiled)
    row("compiled over plain", [c / p for c, p in zip(compiled, plain, strict=True)], "", 1.0)


if __name__ == "__main__":
    main()
