"""The prior's own ancestral samples, the second reference of every measure: what distillation can hope for.

A set of samples has N objects in V views as a run has, but every picture is a sample of its own: neither are the views
of an object views of one instance, nor are the backgrounds the same.
"""

import hashlib
import json

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from common.cache import cache_folder, cached
from common.pixels import to_uint8
from common.randomness import generator
from evaluation.pictures import SIZE, Pictures, with_found_masks
from scene.cameras import Orbit
from toybox.prior.gates import GUIDANCE, RESCALE
from toybox.prior.metrics import sample
from toybox.world.captions import VIEWS, caption
from vsd.embeddings import embed
from vsd.prior import DiffusionPrior, load_pipeline
from vsd.sampling import ancestral_samples

COUNT = 16  # samples per view
STEPS = 30  # of the sampler
SCALE = 7.5  # of classifier-free guidance, for a prior whose best scale is not known


def fingerprint(pipeline: DiffusionPipeline) -> str:
    """Eight hexadecimal digits that name what samples follow from: the networks' weights and the noise schedule."""
    schedule = {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(schedule, sort_keys=True, default=str).encode())
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        for tensor in part.state_dict().values():
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def prior_samples(
    model: str, name: str, colour: str, cameras: Orbit, count: int = COUNT, steps: int = STEPS
) -> Pictures:
    """Ancestral samples for the prompts of some views, from the cache folder or drawn and put there.

    Args:
        model: A toybox prior: a folder, or "toybox", the one that is shipped.
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        cameras: V cameras, whose view words the prompts get.
        count: N, samples per view.
        steps: Of the sampler.

    Returns:
        N objects in V views, over the backgrounds that the prior has drawn.
    """
    pipeline = load_pipeline(model)
    views = [VIEWS.words[i] for i in VIEWS.index(cameras.azimuth, cameras.elevation)]
    words = hashlib.sha256(", ".join(views).encode()).hexdigest()[:6]
    stem = f"{colour}-{name}-{fingerprint(pipeline)}-{words}-{count}-{steps}-{GUIDANCE:g}-{RESCALE:g}".replace(" ", "-")
    path = cache_folder() / "prior-samples" / f"{stem}.safetensors"

    def make() -> dict[str, Tensor]:
        prompts = [caption(name, colour, view) for view in views] * count
        images = (sample(pipeline, prompts, GUIDANCE, steps, RESCALE) + 1) / 2  # (N V, 3, S, S)
        return {"rgb": to_uint8(_of_size(images))}

    return with_found_masks((cached(path, make)["rgb"].float() / 255).unflatten(0, (count, len(views))))


def view_samples(model: str, prompt: str, cameras: Orbit, count: int, steps: int = STEPS, seed: int = 0) -> Tensor:
    """Samples of any prior for a prompt with the words of some views, on a GPU where there is one.

    Args:
        model: The prior: "toybox", a folder or a hub id.
        prompt: Without view words.
        cameras: V cameras, whose view words the prompt gets.
        count: N, samples per view.
        steps: Of the prior's scheduler.
        seed: Of the noise.

    Returns:
        (N, V, 3, S, S) in [0, 1].
    """
    prior = DiffusionPrior.load(model, "cuda" if torch.cuda.is_available() else "cpu")
    draws = generator("cpu", seed, 0)
    empty, views = embed(prior, [""]), []
    for index in VIEWS.index(cameras.azimuth, cameras.elevation).tolist():
        text = embed(prior, [f"{prompt}, {VIEWS.words[index]}"]).repeat(count)
        views.append(ancestral_samples(prior, text, empty.repeat(count), SCALE, steps=steps, generator=draws))
    return torch.stack(views, 1)


def _of_size(images: Tensor) -> Tensor:
    """Pictures (B, 3, SIZE, SIZE); priors of another size are scaled."""
    if images.shape[-1] == SIZE:
        return images
    return torch.nn.functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
