"""An optimizer that turns the steps of weight matrices towards orthogonal ones.

The gradient of a matrix is mostly of a few directions; Muon gives all of them about the same step. The toybox's UNet
learns more by it from the same pictures than with AdamW (benchmarks/RESULTS.md).

Source: Jordan et al. 2024, Muon; the step's size is Liu et al. 2025's, which equals AdamW's in the mean, so that both
take the same learning rate. torch.optim.Muon takes matrices alone, and no convolutions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from typing_extensions import override

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic, steepest at 0
ITERATIONS = 5
RMS = 0.2  # of AdamW's steps


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly.

    Singular values of a thirtieth of the largest and more come to lie between 0.6 and 1.3.

    Args:
        matrices: (B, M, N), in any dtype.

    Returns:
        (B, M, N) bfloat16. Zeros stay zeros.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).bfloat16()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (B, m, m), m the shorter side
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Muon for matrices and convolutions, AdamW for all else.

    A convolution counts as a matrix with a row per output channel.

    Args:
        matrices: Parameters of two and more axes, for Muon.
        others: Parameters for AdamW.
        lr: Learning rate of both.
        momentum: Of Muon, in [0, 1).
        betas: Of AdamW.
        weight_decay: Of both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ):
        groups = [{"params": list(matrices)}, {"params": list(others)}]
        super().__init__(groups, lr, betas, weight_decay=weight_decay, foreach=True)
        self.momentum = momentum

    @override
    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = self.param_groups[0]["params"]
        gradients = [p.grad for p in matrices]
        self._step_matrices(self.param_groups[0])
        for p in matrices:
            p.grad = None  # AdamW's step passes those over
        super().step()
        for p, gradient in zip(matrices, gradients, strict=True):
            p.grad = gradient
        return loss

    def _step_matrices(self, group: dict) -> None:
        momentum, lr = self.momentum, group["lr"]
        alike = defaultdict(list)  # of one shape, for one product each
        for p in group["params"]:
            if p.grad is not None:
                alike[len(p), p[0].numel()].append(p)
        for (rows, columns), parameters in alike.items():
            updates = []
            for p in parameters:
                state = self.state[p]
                if not state:
                    state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(p.grad)}
                state["step"] += 1  # which Adam asks for where a state is restored
                state["momentum"].lerp_(p.grad, 1 - momentum)
                updates.append(p.grad.lerp(state["momentum"], momentum).reshape(rows, columns))
            size = lr * RMS * max(rows, columns) ** 0.5
            for p, update in zip(parameters, orthogonal(torch.stack(updates)), strict=True):
                p.mul_(1 - lr * group["weight_decay"]).sub_(update.view_as(p), alpha=size)


def split(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of a network that Muon takes, and the others.

    Args:
        network: With the first and last layer called conv_in and conv_out, if it is a UNet.
    """
    # A row of an embedding is a word's own.
    edges = {id(p) for module in network.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    matrices, others = [], []
    for name, p in network.named_parameters():
        inner = p.dim() > 1 and id(p) not in edges and not {"conv_in", "conv_out"} & set(name.split("."))
        (matrices if inner else others).append(p)
    return matrices, others
