"""torch.compile that is trusted only after its gradients have been compared with the plain network's.

A compiled backward can be wrong while its output is right: where torch 2.13's inductor puts convolutions into channels
last by itself, the inner blocks of a UNet get gradients of almost zero in bfloat16 on a CPU, and the loss still falls.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.errors import InputError

TOLERANCE = 0.1  # relative; in bfloat16 fused attention alone changes gradients by 0.02 to 0.03
ROUNDING = 2.0  # times what autocast changes in the plain gradient; that is much where a trained network's cancel
# Whoever wants channels last says so before (guidance.savings, the prior's training on a GPU).
OPTIONS = {"layout_optimization": False}
FLOOR = 5e-2  # of the largest gradient's norm: far below it a gradient is rounding alone, above all in bfloat16


def compile_checked(
    network: nn.Module, parameters: dict[str, Tensor], loss: Callable[[Callable], Tensor], key: str = "model.compile"
) -> Callable:
    """Compiles a network, and checks one loss and its gradients on the device at hand.

    Under autocast a gradient may differ by more where the plain one's own rounding, its difference from the plain
    gradient in float32, is more.

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
        _require_equal(*values, {}, "value", key)
        plain, ours = (_gradients(loss(form), parameters) for form in (network, compiled))
        _require_equal(plain, ours, _rounding(network, parameters, loss, plain), "gradient", key)
    except InputError:
        raise
    except Exception as error:
        # Without a compiler, or on a device that it does not know, torch raises a dozen unrelated types.
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{key}: torch {torch.__version__} cannot compile it here ({reason}); leave {key} out"
        ) from error
    return compiled


def _rounding(
    network: nn.Module, parameters: dict[str, Tensor], loss: Callable[[Callable], Tensor], plain: dict[str, Tensor]
) -> dict[str, float]:
    """Relative errors of the plain gradients under autocast; none without it."""
    device = next(iter(parameters.values())).device.type
    if not torch.is_autocast_enabled(device):
        return {}
    with torch.autocast(device, enabled=False):
        return _errors(_gradients(loss(network), parameters), plain)


def _errors(truth: dict[str, Tensor], values: dict[str, Tensor]) -> dict[str, float]:
    floor = FLOOR * max(float(value.norm()) for value in truth.values())
    return {name: float((values[name] - truth[name]).norm() / (truth[name].norm() + floor)) for name in truth}


def _require_equal(
    plain: dict[str, Tensor], ours: dict[str, Tensor], rounding: dict[str, float], what: str, key: str
) -> None:
    errors = _errors(plain, ours)
    allowed = {name: TOLERANCE + ROUNDING * rounding.get(name, 0.0) for name in errors}
    beyond = [name for name in errors if not errors[name] <= allowed[name]]  # also where it is not a number
    if beyond:
        worst = max(beyond, key=lambda name: errors[name] / allowed[name])
        raise InputError(
            f"{key}: the compiled network's {what} of {worst} has a relative error of {errors[worst]:.2g} "
            f"(allowed: {allowed[worst]:.2g}) with torch {torch.__version__}; leave {key} out"
        )


def _gradients(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """A gradient for each parameter, zero where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: (torch.zeros_like(parameter) if gradient is None else gradient).float()
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }
