"""What each switch of a step's cost changes of the gradient: python -m benchmarks.switch_effect [--model toybox].

One VSD step of two renders on a CPU, with the same noise and the same random phi every time; printed are the cosines of
the images' gradient and of phi's with those of the plain step in float32.
"""

import argparse

import torch
from torch import Tensor

from common.randomness import generator
from vsd.guidance import VSDGuidance
from vsd.prior import TOYBOX, DiffusionPrior
from vsd.savings import Savings
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps
from vsd.views import View

SWITCHES = {
    "bfloat16": {"dtype": "bfloat16"},
    "shared forward": {"score": ScoreSettings(shared_forward=True, camera_dropout=0.0)},
    "checkpointing": {"savings": Savings(checkpointing=True)},
    "slicing": {"savings": Savings(slicing=True)},
    "channels last": {"savings": Savings(channels_last=True)},
}
PLAIN = {"score": ScoreSettings(camera_dropout=0.0)}


def gradients(model: str, settings: dict) -> tuple[Tensor, Tensor]:
    """Of a step.

    Args:
        model: The prior.
        settings: Of the guidance.

    Returns:
        The gradients of the images and of phi's parameters, flat, float32.
    """
    guidance = VSDGuidance("a red car", Timesteps(10), model, **(PLAIN | settings))
    guidance.prepare(DiffusionPrior.load(model, "cpu", guidance.dtype, **guidance.savings.of_prior))
    draws = generator("cpu", 1)
    parameters = list(guidance.trainer.network.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(0, 0.02, generator=draws)
    size = guidance.image_size
    images = torch.rand(2, 3, size, size, generator=draws).mul(2).sub(1).requires_grad_(True)
    view = View(torch.eye(4).repeat(2, 1, 1), torch.tensor([0.0, 90.0]), torch.tensor([10.0, 10.0]))
    guidance.particle_loss(images, view, torch.tensor([5, 5])).backward()
    guidance.update_score()
    return images.grad.flatten(), torch.cat([p.grad.flatten() for p in parameters]).float()


def main(args: list[str] | None = None) -> None:
    """Prints a Markdown table.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TOYBOX, help="folder, hub id, or toybox (default: %(default)s)")
    options = parser.parse_args(args)
    plain = gradients(options.model, {})
    print("| switch | cosine of the images' gradient | of phi's gradient |\n|---|---|---|")
    for name, settings in SWITCHES.items():
        ours = gradients(options.model, settings)
        cosines = (torch.cosine_similarity(a.double(), b.double(), 0) for a, b in zip(ours, plain, strict=True))
        print("| " + " | ".join([name, *(f"{cosine:.7f}" for cosine in cosines)]) + " |", flush=True)


if __name__ == "__main__":
    main()
