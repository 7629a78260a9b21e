"""torch.compile that is trusted only after its gradients have been compared with the plain network's.

A compiled backward can be wrong while its output is right: where torch 2.13's inductor puts convolutions into channels
last by itself, the inner blocks of a UNet get gradients of almost zero in bfloat16 on a CPU, and the loss still falls.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.errors import InputError

TOLERANCE = 0.1  # relative; in bfloat16 fused attention alone changes gradients by 0.02 to 0.03
# Whoever wants channels last says so before (guidance.savings, the prior's training on a GPU).
OPTIONS = {"layout_optimization": False}
FLOOR = 5e-2  # of the largest gradient's norm: far below it a gradient is rounding alone, above all in bfloat16


def compile_checked(
    network: nn.Module, parameters: dict[str, Tensor], loss: Callable[[Callable], Tensor], key: str = "model.compile"
) -> Callable:
    """Compiles a network, and checks one loss and its gradients on the device at hand.

    Args:
        network: To compile.
        parameters: Names and tensors whose gradients are compared; all that the loss trains.
        loss: Gives the loss, a scalar, for the network or for its compiled form. Must draw nothing.
        key: The option that asks for it, for messages.

    Returns:
        The compiled network.

    Raises:
        InputError: The loss without a graph, or a gradient, differs, or nothing can be compiled here. The message names
            the key and the parameter.
    """
    compiled = torch.compile(network, options=OPTIONS)
    try:
        with torch.no_grad():  # which has a compiled form of its own
            values = {"loss": loss(network).float()}, {"loss": loss(compiled).float()}
        _require_equal(*values, "value", key)
        _require_equal(*(_gradients(loss(form), parameters) for form in (network, compiled)), "gradient", key)
    except InputError:
        raise
    except Exception as error:
        # Without a compiler, or on a device that it does not know, torch raises a dozen unrelated types.
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{key}: torch {torch.__version__} cannot compile it here ({reason}); leave {key} out"
        ) from error
    return compiled


def _require_equal(plain: dict[str, Tensor], ours: dict[str, Tensor], what: str, key: str) -> None:
    floor = FLOOR * max(float(gradient.norm()) for gradient in plain.values())
    errors = {name: float((ours[name] - plain[name]).norm() / (plain[name].norm() + floor)) for name in plain}
    worst = max(errors, key=errors.get)
    if not errors[worst] <= TOLERANCE:  # also where it is not a number
        raise InputError(
            f"{key}: the compiled network's {what} of {worst} has a relative error of {errors[worst]:.2g} "
            f"(allowed: {TOLERANCE}) with torch {torch.__version__}; leave {key} out"
        )


def _gradients(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """A gradient for each parameter, zero where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: (torch.zeros_like(parameter) if gradient is None else gradient).float()
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }
