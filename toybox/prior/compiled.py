"""torch.compile that is trusted only after its gradients have been compared with the plain network's.

A compiled backward can be wrong while its output is right: torch 2.13's leaves the inner blocks of a UNet without a
gradient on a CPU, and the loss still falls.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.errors import InputError

TOLERANCE = 0.1  # relative; in bfloat16 fused attention alone changes gradients by 0.02 to 0.03
FLOOR = 1e-2  # of the largest gradient's norm: far below it a gradient is rounding alone


def compile_checked(
    network: nn.Module, parameters: dict[str, nn.Parameter], loss: Callable[[Callable], Tensor]
) -> Callable:
    """Compiles a network, and checks the gradients of one loss.

    Args:
        network: To compile.
        parameters: Names and parameters whose gradients are compared; all that the loss trains.
        loss: Gives the loss, a scalar, for the network or for its compiled form. Must draw nothing.

    Returns:
        The compiled network.

    Raises:
        InputError: A gradient differs. The message names model.compile and the parameter.
    """
    compiled = torch.compile(network)
    plain, ours = (_gradients(loss(form), parameters) for form in (network, compiled))
    floor = FLOOR * max(float(gradient.norm()) for gradient in plain.values())
    errors = {name: float((ours[name] - plain[name]).norm() / (plain[name].norm() + floor)) for name in plain}
    worst = max(errors, key=errors.get)
    if not errors[worst] <= TOLERANCE:  # also where it is not a number
        raise InputError(
            f"model.compile: the compiled network's gradient of {worst} has a relative error of {errors[worst]:.2g} "
            f"(allowed: {TOLERANCE}) with torch {torch.__version__}; leave model.compile out"
        )
    return compiled


def _gradients(loss: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """A gradient for each parameter, zero where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: (torch.zeros_like(parameter) if gradient is None else gradient).float()
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }
