"""Switches that lower what a step costs, in time or memory, and what each of them changes of the gradient."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from common.errors import InputError
from vsd.prior import DiffusionPrior
from vsd.score_trainer import ScoreSettings

ALIKE = 0.8  # smallest correlation of a tiny autoencoder's latents with the full one's; other latents have about none
SIDE = 128  # pixels of the image on which they are compared


@dataclass(frozen=True)
class Savings:
    """What a step may save.

    Args:
        encoder: Folder or hub id of an AutoencoderTiny of the prior's latents, such as madebyollin/taesd for Stable
            Diffusion 1 and 2, which encodes the renders in the place of the prior's autoencoder; null for the prior's
            own. A third of the step's operations; the gradient is an approximation.
        encoder_until: Particle steps with `encoder`, >= 1, after which the prior's own autoencoder encodes; null for
            all steps.
        checkpointing: Whether phi's training pass and the encoder keep few activations and compute the others anew in
            their backward. It saves memory and costs a forward of each; the gradient is the same.
        channels_last: Whether images and the weights of convolutions lie channels last in memory, which tensor cores
            prefer; the gradient is the same up to rounding. On a CPU its group norms take several times as long, ten
            in bfloat16, and its convolutions less: on the toybox a step takes 0.9 of the time in float32, as long in
            bfloat16 (benchmarks.layouts).
        slicing: Whether the views of a batch are encoded one after the other, and anew, one by one, in the backward: of
            the encoder's activations only those of one view are kept at a time. It costs a forward of the encoder per
            view, nothing for a batch of one; the gradient is the same up to rounding.
        compile: Whether torch.compile compiles the UNets, which takes minutes at the start and steps faster
            afterwards. What is compiled computes a loss and its gradients before the first step, and training does not
            start where they differ from the plain ones'; the gradient is the same up to rounding.

    Raises:
        InputError: `encoder_until` is below 1, or is given without an encoder; or `compile` goes with `checkpointing`.
    """

    encoder: str | None = None
    encoder_until: int | None = None
    checkpointing: bool = False
    channels_last: bool = False
    slicing: bool = False
    compile: bool = False

    def __post_init__(self):
        if self.compile and self.checkpointing:
            raise InputError(
                "guidance.savings.compile: not with guidance.savings.checkpointing, which switches phi on again in the "
                "backward; set one of them only"
            )
        if self.encoder_until is None:
            return
        if self.encoder is None:
            raise InputError("guidance.savings.encoder_until: there is no guidance.savings.encoder; name one")
        if self.encoder_until < 1:
            raise InputError(
                f"guidance.savings.encoder_until: {self.encoder_until}; it counts particle steps, at least 1"
            )

    @property
    def of_prior(self) -> dict[str, bool]:
        """The switches of a DiffusionPrior."""
        return {name: getattr(self, name) for name in ("checkpointing", "channels_last", "slicing")}

    def full_encoder(self, steps: Tensor) -> bool:
        """Whether renders of particles that have made `steps` (B,), on the CPU, need the prior's own autoencoder."""
        return self.encoder_until is not None and bool((steps >= self.encoder_until).any())


def load_encoder(model: str, prior: DiffusionPrior) -> AutoencoderTiny:
    """Loads a tiny autoencoder and compares its latents of an image with the prior's.

    Args:
        model: A folder or a hub id.
        prior: With its own autoencoder, whose device and dtype it gets.

    Raises:
        InputError: It does not load, or its latents are not the prior's.
    """
    key = "guidance.savings.encoder"
    try:
        kind = AutoencoderTiny.load_config(model).get("_class_name")
        if kind != AutoencoderTiny.__name__:
            raise ValueError(f"it is a {kind}")
        encoder = AutoencoderTiny.from_pretrained(model, dtype=prior.dtype)
    except Exception as error:
        # diffusers, safetensors and the hub raise a dozen unrelated types.
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{key}: {model} does not load as an AutoencoderTiny ({reason}); check the name") from error
    prior.freeze(encoder)
    image = smooth_image(prior.device)
    with torch.no_grad():
        full, tiny = prior.encode(image, full=True), encoder.encode(image.to(prior.dtype)).latents.float()
    if tiny.shape != full.shape:
        raise InputError(
            f"{key}: the latents of {model} are {tuple(tiny.shape[1:])}, the prior's {tuple(full.shape[1:])}, of one "
            "image; name the tiny autoencoder of guidance.model's family"
        )
    alike = correlation(tiny * encoder.config.scaling_factor, full)
    if not alike >= ALIKE:
        raise InputError(
            f"{key}: the latents of {model} correlate by {alike:.2f} with those of guidance.model, {ALIKE} is needed; "
            "name the tiny autoencoder of its family"
        )
    return encoder


def out_of_memory(prior: DiffusionPrior, score: ScoreSettings, savings: Savings) -> InputError:
    """What to say where a step does not fit into the device's memory: the switches that are left."""
    switches = {
        "guidance.dtype bfloat16": prior.dtype == torch.float32,
        "guidance.score.model null": score.model is not None,
        "guidance.score.shared_forward false": score.shared_forward,
        "guidance.savings.checkpointing true": not savings.checkpointing,
        "guidance.savings.slicing true": not savings.slicing,
        "guidance.savings.encoder, a tiny autoencoder": savings.encoder is None,
    }
    left = [name for name, helps in switches.items() if helps]
    less = ", ".join(
        [*left, "model.field.chunk in the NeRF stage", "a lower resolution or batch_size in data.milestones"]
    )
    return InputError(f"guidance: a step does not fit into the memory of {prior.device}; what takes less: {less}")


def correlation(one: Tensor, two: Tensor) -> float:
    """Of two batches (B, C, H, W), without the means of their channels."""
    one, two = (x - x.mean((2, 3), keepdim=True) for x in (one, two))
    return torch.cosine_similarity(one.flatten(), two.flatten(), 0).item()


def smooth_image(device: torch.device | str) -> Tensor:
    """An image (1, 3, SIDE, SIDE) in [-1, 1] of coloured waves, the same everywhere: every latent sees some change."""
    draws = torch.Generator().manual_seed(0)
    waves = torch.randn(1, 3, SIDE // 8, SIDE // 8, generator=draws)
    image = torch.nn.functional.interpolate(waves, (SIDE, SIDE), mode="bicubic", align_corners=True)
    return image.div(2).clamp(-1, 1).to(device)
