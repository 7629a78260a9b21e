"""Whether a VSD step's three forwards pay in one call: python -m benchmarks.one_call [--size sd21] [--device cuda].

The guidance calls the UNet twice: for the prior with and without the text, a batch of 2 B, and for phi, a batch of B
with the adapter on. peft's layers also take the name of an adapter per sample, so that one call of 3 B could do; this
compares the two, in results and in time. Only a phi without a model of its own and without a shared forward can take
part: the prior's samples keep no activations, phi's shared forward needs its own.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.timing import interleaved, row
from benchmarks.untrained_sd import STABLE_DIFFUSION_2, Size, untrained_stable_diffusion
from vsd.embeddings import embed
from vsd.prior import DiffusionPrior, Text
from vsd.score_network import ADAPTER, ScoreNetwork

BASE = "__base__"  # peft's name for no adapter
PROMPTS = ["a red car, front view", "", "a red car"]


class Forwards:
    """The three forwards of a step, of random latents and cameras.

    Args:
        prior: The prior.
        phi: A LoRA on its UNet.
        batch: B, views of a step.
    """

    def __init__(self, prior: DiffusionPrior, phi: ScoreNetwork, batch: int):
        self.prior, self.phi = prior, phi
        draws = torch.Generator().manual_seed(0)
        self.x_t = torch.randn(batch, *prior.latent_shape, generator=draws).to(prior.device)
        self.cameras = torch.randn(batch, 4, 4, generator=draws).to(prior.device)
        self.t = torch.full((batch,), prior.steps // 2, device=prior.device)
        texts = embed(prior, PROMPTS)
        self.texts = [texts[index : index + 1].repeat(batch) for index in range(3)]
        self.names = [BASE] * 2 * batch + [ADAPTER] * batch

    @torch.no_grad()
    def two_calls(self) -> list[Tensor]:
        """eps for the text, without it, and of phi, as the guidance computes them."""
        prior = self.prior.predict_many(self.x_t, self.t, self.texts[:2])
        return [*prior, self.phi.predict(self.x_t, self.t, self.texts[2], self.cameras)]

    @torch.no_grad()
    def one_call(self) -> list[Tensor]:
        """The same from one pass of the network."""
        with self._named():
            eps = self.prior.predict(self.x_t.repeat(3, 1, 1, 1), self.t.repeat(3), Text.cat(self.texts))
        return list(eps.chunk(3))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The adapter and the camera for the last third of a batch alone."""

        def name(_: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return args, kwargs | {"adapter_names": self.names}

        hooks = [layer.register_forward_pre_hook(name, with_kwargs=True) for layer in self.phi._layers]
        try:
            with self.phi._active(self.cameras):
                camera = self.phi._embedding
                self.phi._embedding = torch.cat([camera.new_zeros(2 * len(camera), camera.shape[1]), camera])
                yield
        finally:
            for hook in hooks:
                hook.remove()


def random_phi(prior: DiffusionPrior) -> ScoreNetwork:
    """A LoRA on the prior's UNet with random weights: those that start from zero would hide whose result it is."""
    phi = ScoreNetwork(prior, camera=True)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=draws))
    return phi


def compare(forwards: Forwards, repeats: int, device: str) -> float:
    """Prints both times, and how far the results are apart.

    Args:
        forwards: Of a step.
        repeats: Of either.
        device: cpu or cuda.

    Returns:
        The median of one call over two.
    """
    jobs: list[Callable[[], list[Tensor]]] = [forwards.two_calls, forwards.one_call]
    apart = max(float((a - b).norm() / a.norm()) for a, b in zip(*(job() for job in jobs), strict=True))
    two, one = interleaved(jobs, repeats, device)
    print(f"batch {len(forwards.t)}, {forwards.prior.dtype} on {device}, medians (quartiles); apart by {apart:.1e}")
    row("two calls, 2B and B", two)
    row("one call of 3B, adapters by name", one)
    return row("one over two", [o / t for o, t in zip(one, two, strict=True)], "", 1.0)


def main(args: list[str] | None = None) -> None:
    """The command.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="views of a step (default: 1 and 4)")
    parser.add_argument("--repeats", type=int, default=20, help="repetitions, at least 2 (default: %(default)s)")
    parser.add_argument("--size", default="small", choices=["small", "sd21"], help="of Stable Diffusion's networks")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    pipeline = untrained_stable_diffusion(STABLE_DIFFUSION_2 if options.size == "sd21" else Size())
    prior = DiffusionPrior(pipeline, options.device, getattr(torch, options.dtype))
    phi = random_phi(prior)
    for batch in options.batch:
        compare(Forwards(prior, phi, batch), options.repeats, options.device)


if __name__ == "__main__":
    main()
