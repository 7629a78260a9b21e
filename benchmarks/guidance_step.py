"""What a VSD step costs: python -m benchmarks.guidance_step [--size sd21] [--flops].

Times a whole guidance step (particle loss, its backward, the score network's update) against the sum of its bare
passes, on networks without any of our code: the prior's, of batch 2 B without gradient; the score network's, without
gradient; the score network's with its backward to the LoRA; the autoencoder's with its backward to the images. All are
timed in turn, repetition by repetition, so that a busy machine slows all alike; the ratio is that of each repetition.
Runs on the toybox and on Stable Diffusion 2's block structure with random weights, of few channels unless --size sd21.
Exits with 1 if a step takes more than 1.1 times its passes.

--flops runs nothing: it counts the operations and the memory of a step, with every set of switches (see step_cost).
"""

import argparse
import copy
import sys
from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig

from benchmarks.step_cost import table, tflop
from benchmarks.timing import interleaved, row
from benchmarks.untrained_sd import STABLE_DIFFUSION_2, Size, untrained_stable_diffusion
from vsd.embeddings import embed
from vsd.prior import DiffusionPrior, load_pipeline
from vsd.score_distillation import Conditions, ScoreDistillation
from vsd.score_network import ATTENTION, ScoreNetwork
from vsd.score_trainer import ScoreSettings, ScoreTrainer

GOAL = 1.1
PASSES = ("prior, batch 2B", "score network", "score network, backward", "autoencoder, backward")


def bare_passes(pipeline: DiffusionPipeline, batch: int, device: str, dtype: torch.dtype) -> list[Callable[[], None]]:
    """The passes that a step needs, on copies of a pipeline's networks.

    Args:
        pipeline: The prior.
        batch: B, views per step.
        device: cpu or cuda.
        dtype: Of the networks.

    Returns:
        The passes, in the order of PASSES.
    """
    unet, score, vae = (copied(network, device, dtype) for network in (pipeline.unet, pipeline.unet, pipeline.vae))
    score.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=list(ATTENTION)))
    for parameter in score.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    side, channels = unet.config.sample_size, unet.config.in_channels
    length, width = pipeline.tokenizer.model_max_length, unet.config.cross_attention_dim
    x_t = torch.randn(2 * batch, channels, side, side, device=device, dtype=dtype)
    t = torch.randint(0, 1000, (2 * batch,), device=device)
    text = torch.randn(2 * batch, length, width, device=device, dtype=dtype)
    pixels = side * 2 ** (len(vae.config.block_out_channels) - 1)
    images = torch.rand(batch, 3, pixels, pixels, device=device, dtype=dtype, requires_grad=True)

    def prior() -> None:
        with torch.no_grad():
            unet(x_t, t, text)

    def forward() -> None:
        with torch.no_grad():
            score(x_t[:batch], t[:batch], text[:batch])

    def train() -> None:
        score.zero_grad()
        score(x_t[:batch], t[:batch], text[:batch]).sample.square().mean().backward()

    def encode() -> None:
        images.grad = None
        vae.encode(images).latent_dist.mode().sum().backward()

    return [prior, forward, train, encode]


def copied(network: torch.nn.Module, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """A frozen copy of a network on a device, in a dtype."""
    network = copy.deepcopy(network).requires_grad_(False).to(device)
    return network if network.dtype == dtype else network.to(dtype)


def guidance_step(
    pipeline: DiffusionPipeline,
    batch: int,
    device: str,
    dtype: torch.dtype,
    shared: bool,
    channels_last: bool = False,
) -> Callable[[], None]:
    """A whole VSD step on images with a gradient.

    Args:
        pipeline: The prior.
        batch: B, views per step.
        device: cpu or cuda.
        dtype: Of the networks.
        shared: Train the score network on the particle step's forward pass.
        channels_last: The layout of the networks' weights.

    Returns:
        The step.
    """
    prior = DiffusionPrior(pipeline, device, dtype, channels_last=channels_last)
    phi = ScoreNetwork(prior, camera=True)
    distillation = ScoreDistillation(prior, phi, shared_forward=shared)
    trainer = ScoreTrainer(phi, ScoreSettings())
    images = torch.rand(batch, 3, prior.image_size, prior.image_size, device=device, requires_grad=True)
    text = embed(prior, ["a red car", ""])
    plain = text[:1].repeat(batch)
    cameras = torch.eye(4, device=device).repeat(batch, 1, 1)
    conditions = Conditions(plain, text[1:].repeat(batch), plain, cameras)

    def step() -> None:
        images.grad = None
        distillation.loss(images, conditions).backward()
        trainer.update(distillation.latents, plain, cameras, distillation.take_forward())

    return step


def compare(name: str, pipeline: DiffusionPipeline, options: argparse.Namespace) -> bool:
    """Prints the table of one pipeline.

    Args:
        name: Of the pipeline, for the table.
        pipeline: The prior.
        options: Of the command line.

    Returns:
        Whether the step meets the goal.
    """
    dtype = getattr(torch, options.dtype)
    jobs = bare_passes(pipeline, options.batch, options.device, dtype)
    for shared in (False, True):
        jobs.append(guidance_step(copy.deepcopy(pipeline), options.batch, options.device, dtype, shared))
    *passes, step, with_shared = interleaved(jobs, options.repeats, options.device)
    print(f"{name}, batch {options.batch}, {options.dtype} on {options.device}, medians (quartiles)")
    for label, values in zip(PASSES, passes, strict=True):
        row(label, values)
    row("guidance step", step)
    row("guidance step, shared forward", with_shared)
    needed = [sum(values) for values in zip(*passes, strict=True)]
    ratio = row("step over its passes", [s / n for s, n in zip(step, needed, strict=True)], "", 1.0)
    needed = [n - forward for n, forward in zip(needed, passes[1], strict=True)]
    row("same, shared forward", [s / n for s, n in zip(with_shared, needed, strict=True)], "", 1.0)
    print(f"  {'goal':<40}{'<=':>7} {GOAL}{'' if ratio <= GOAL else '   MISSED'}", flush=True)
    return ratio <= GOAL


def count(size: Size, views: int) -> None:
    """Prints the operations of the bare passes, and the table of a step with every set of switches.

    Args:
        size: Of the networks.
        views: Of a step in the table.
    """
    with torch.device("meta"):
        pipeline = untrained_stable_diffusion(size)
    counts = [tflop(job) for job in bare_passes(pipeline, 1, "meta", torch.bfloat16)]
    passes = ", ".join(f"{label} {value:.3g}" for label, value in zip(PASSES, counts, strict=True))
    print(f"TFLOP of the passes of a view: {passes}; in all {sum(counts):.3g}\n")
    print("\n".join(table(size, views)), flush=True)


def main(args: list[str] | None = None) -> None:
    """Prints the tables of the toybox and of Stable Diffusion's blocks; exits with 1 if a goal is missed.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the prior")
    parser.add_argument("--batch", type=int, default=1, help="views per step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="repetitions, at least 2 (default: %(default)s)")
    parser.add_argument("--size", default="small", choices=["small", "sd21"], help="of Stable Diffusion's networks")
    parser.add_argument("--flops", action="store_true", help="count operations and memory, without running anything")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    if options.batch < 1 or options.repeats < 2:
        parser.error("--batch must be at least 1 and --repeats at least 2")
    full = options.size == "sd21"
    size = STABLE_DIFFUSION_2 if full else Size()
    if options.flops:
        return count(size, options.batch)
    met = compare("toybox", load_pipeline(), options)
    name = f"Stable Diffusion 2's blocks, {'its own size' if full else 'few channels'}"
    met &= compare(name, untrained_stable_diffusion(size), options)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
