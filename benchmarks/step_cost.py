"""What a guidance step takes in operations and memory, counted without running it.

The networks lie on PyTorch's meta device, so that Stable Diffusion 2.1's own size needs neither memory nor time.
Operations are those of matrix products and convolutions, 2 per multiplication and addition, as FlopCounterMode counts
them. Memory is a lower bound for a GPU: the most that tensors of the step take at one time, with fused
attention, without the fragments and the work spaces of kernels; the render's own memory is not in it.

The prior's two passes, with and without the text, are one call of the network. phi's forward as a third part of that
call saves no operation; what it saves in time is measured by benchmarks.one_call.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.untrained_sd import Size, untrained_stable_diffusion
from vsd.prior import DiffusionPrior, Text
from vsd.score_distillation import Conditions, ScoreDistillation
from vsd.score_network import ScoreNetwork

GIB = 2**30
SWITCHES = {  # of a step: shared forward, tiny encoder, checkpointing, slicing
    "plain": (False, False, False, False),
    "shared forward": (True, False, False, False),
    "tiny encoder": (False, True, False, False),
    "shared forward, tiny encoder": (True, True, False, False),
    "checkpointing": (False, False, True, False),
    "shared forward, checkpointing": (True, False, True, False),
    "tiny encoder, checkpointing": (False, True, True, False),
    "all": (True, True, True, False),
    "slicing": (False, False, False, True),
    "shared forward, tiny encoder, slicing": (True, True, False, True),
    "all, slicing": (True, True, True, True),
}


class Allocations(TorchDispatchMode):
    """Adds up the memory of the tensors that operations make, until they are freed.

    Args:
        known: Tensors whose memory is not counted, such as weights.

    Attributes:
        peak: The most bytes at one time.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {tensor.untyped_storage()._cdata: (None, 0) for tensor in known}

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Runs one operation and counts the memory of its results."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = weakref.ref(storage, lambda _: self._free(key)), storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)[1]


def fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Attention that keeps no matrix of weights, as a GPU computes it; the meta device would keep it."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]


def meta_step(
    size: Size,
    dtype: torch.dtype,
    shared: bool = False,
    tiny: bool = False,
    checkpointing: bool = False,
    slicing: bool = False,
    views: int = 1,
) -> tuple[Callable[[], None], list[Tensor]]:
    """A step on the meta device.

    Args:
        size: Of the networks.
        dtype: Of the networks.
        shared: Whether phi learns from the particle step's forward.
        tiny: Whether an AutoencoderTiny of TAESD's size encodes.
        checkpointing: Whether phi's training pass and the encoder compute activations anew.
        slicing: Whether views are encoded one after the other, and anew in the backward.
        views: B, views of a step.

    Returns:
        The step, and all weights that it needs: the text encoder and a replaced autoencoder are not among them.
    """
    with torch.device("meta"):
        encoder = AutoencoderTiny() if tiny else None
        pipeline = untrained_stable_diffusion(size)
        prior = DiffusionPrior(pipeline, "meta", dtype, encoder=encoder, checkpointing=checkpointing, slicing=slicing)
        phi = ScoreNetwork(prior, camera=True, checkpointing=checkpointing)
        distillation = ScoreDistillation(prior, phi, shared_forward=shared)
        text = Text(torch.zeros(views, pipeline.tokenizer.model_max_length, size.text, dtype=dtype))
        conditions = Conditions(text, text, text, torch.zeros(views, 4, 4))
        images = torch.zeros(views, 3, prior.image_size, prior.image_size, requires_grad=True)

    def step() -> None:
        distillation.loss(images, conditions).backward()
        forward = distillation.take_forward()
        if forward is None:
            phi.loss(distillation.latents, text, conditions.cameras).backward()
        else:
            phi.error(*forward).backward()
        images.grad = None
        phi.zero_grad()

    networks = prior.unet, prior.encoder, phi
    return step, list({id(p): p for network in networks for p in network.parameters()}.values())


def tflop(step: Callable[[], None]) -> float:
    """Operations of a step, in 10^12."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e12


def memory(step: Callable[[], None], weights: list[Tensor]) -> tuple[float, float]:
    """Of the weights, and at most of all of a step's tensors with them, in GiB."""
    held = sum(weight.nbytes for weight in weights)
    attention = mock.patch("torch.nn.functional.scaled_dot_product_attention", fused_attention)
    with attention, Allocations(weights) as counted:
        step()
    return held / GIB, (held + counted.peak) / GIB


def table(size: Size, views: int = 1) -> list[str]:
    """The lines of a Markdown table: operations and memory of a step with each set of switches.

    Args:
        size: Of the networks.
        views: B, views of a step; slicing has an effect from two on.
    """
    lines = [
        "| step | TFLOP a view | of the plain one | weights, bf16, GiB | most, bf16, GiB | most, fp32, GiB |",
        "|---|---|---|---|---|---|",
    ]
    plain = None
    for name, switches in SWITCHES.items():
        if views == 1 and switches[-1]:
            continue
        half, weights = meta_step(size, torch.bfloat16, *switches, views=views)
        count = tflop(half) / views
        plain = plain or count
        held, most = memory(half, weights)
        _, full = memory(*meta_step(size, torch.float32, *switches, views=views))
        lines.append(f"| {name} | {count:.3g} | {count / plain:.2f} | {held:.2f} | {most:.2f} | {full:.2f} |")
    return lines
