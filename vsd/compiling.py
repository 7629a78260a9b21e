"""The UNets of a step by torch.compile, once the device at hand has computed right gradients with them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common.compiled import compile_checked
from common.randomness import generator
from vsd.noise_predictor import NoisePredictor
from vsd.prior import DiffusionPrior, Text

KEY = "guidance.savings.compile"
STIR = 0.02  # deviation of phi's weights while it is checked: those that start from zero would hide half of them


def compile_unets(prior: DiffusionPrior, phi: NoisePredictor | None, text: Text, plain: Text) -> None:
    """Lets the prior, and phi, call compiled forms of their UNets.

    Args:
        prior: The prior.
        phi: The score network; None for a guidance without one.
        text: A prompt of the prior.
        plain: The same for phi's base.

    Raises:
        InputError: What is compiled computes something else.
    """
    draws = generator(prior.device, 0)
    x_t = torch.randn(1, *prior.latent_shape, generator=draws, device=prior.device, requires_grad=True)
    eps = torch.randn(1, *prior.latent_shape, generator=draws, device=prior.device)
    t = torch.full((1,), prior.steps // 2, device=prior.device)

    def guided() -> Tensor:
        return prior.raw(x_t, t, text).square().mean()  # of v, eps would add a part that the network has not made

    compiled = [(prior, _checked(prior, {"x_t": x_t}, guided))]
    if phi is not None:
        cameras = torch.eye(4, device=prior.device)[None]

        def trained() -> Tensor:
            return phi.loss(x_t, plain, cameras, phi.own_times(t), eps)

        with _stirred(phi.parameters(), draws):
            compiled.append((phi.base, _checked(phi.base, dict(phi.named_parameters()), trained)))
    for base, network in compiled:
        base.network = network


def _checked(base: DiffusionPrior, parameters: dict[str, Tensor], loss: Callable[[], Tensor]) -> Callable:
    """The compiled form of a UNet whose loss has the gradients of the plain one's."""

    def with_form(form: Callable) -> Tensor:
        base.network = form
        try:
            return loss()
        finally:
            base.network = base.unet

    return compile_checked(base.unet, parameters, with_form, KEY)


@contextmanager
def _stirred(parameters: Iterable[Tensor], draws: torch.Generator) -> Iterator[None]:
    """Random weights for a while."""
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    with torch.no_grad():
        for parameter, _ in kept:
            parameter.normal_(0, STIR, generator=draws)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
