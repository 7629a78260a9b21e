"""eps_phi(x_t, t, c, y): the score of the renders, as a LoRA on a pretrained UNet, with or without a camera.

The UNet is the prior's own, which serves both: without the adapter it is the prior, to the bit; with it, and with the
camera's embedding added to the time embedding, it is the score network. Or it is that of a second pipeline with the
same latents. x_0, x_t and eps are (B, C, H, W), t is (B,); cameras are camera-to-world matrices (B, 4, 4).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from common.errors import InputError
from vsd.noise_predictor import NoisePredictor
from vsd.prior import DiffusionPrior

ADAPTER = "phi"
USE = "use the guidance.model and guidance.score's model, rank and targets that it was trained with"
TOLERANCE = 0.05  # between the latents of two copies of an autoencoder, of which one may be retouched
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# with the convolutions and feed-forward layers, which know of noise levels and colours
ALL_LAYERS = (*ATTENTION, "conv1", "conv2", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")


class ScoreNetwork(NoisePredictor):
    """The trainable part of eps_phi. Owns the adapter's parameters and the camera embedding, not the UNet.

    Args:
        base: The pipeline whose UNet gets the adapter.
        rank: Of the LoRA, at least 1; its alpha is the same.
        targets: Names of the layers that get a LoRA.
        camera: Whether phi is told the camera.
        prior: The prior whose timesteps `raw` and `predict` are given, where that is not `base`: they are converted to
            the timesteps of `base` that are as noisy.
        checkpointing: Whether passes with a gradient keep few activations, which their backward computes anew.

    Raises:
        InputError: `rank` is below 1, or the UNet has no layer of `targets`.

    Source: ProlificDreamer, section 3.3 and appendix; its code embeds the flattened matrix likewise.
    """

    def __init__(
        self,
        base: DiffusionPrior,
        rank: int = 4,
        targets: tuple[str, ...] = ATTENTION,
        camera: bool = False,
        prior: DiffusionPrior | None = None,
        checkpointing: bool = False,
    ):
        if rank < 1:
            raise InputError(f"guidance.score.rank: {rank}; a LoRA needs a rank of at least 1")
        super().__init__(base, prior)
        unet = base.unet
        try:
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), adapter_name=ADAPTER)
        except ValueError as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"guidance.score.targets: {', '.join(targets)} do not fit the UNet ({reason})") from error
        cast_training_params(unet, dtype=torch.float32)
        self.adapter = nn.ParameterList(p for p in unet.parameters() if p.requires_grad)
        if camera:
            self._see_cameras()
        self._layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
        self._enable(False)
        if checkpointing:
            unet.enable_gradient_checkpointing(self._checkpointed)

    def _checkpointed(self, block: nn.Module, *inputs: Tensor) -> Tensor | tuple:
        on = self._on  # the backward comes when the adapter is off again

        def contexts() -> tuple:
            return nullcontext(), self._switched(on)

        return checkpoint(block.__call__, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    def _enable(self, on: bool) -> None:
        # peft's own switch walks all modules and freezes what it disables: a tenth of a small network's pass.
        self._on = on
        for layer in self._layers:
            layer._disable_adapters = not on

    @override
    @contextmanager
    def _switched(self, on: bool) -> Iterator[None]:
        before = self._on
        self._enable(on)
        try:
            yield
        finally:
            self._enable(before)

    @override
    def state(self) -> dict[str, dict[str, Tensor]]:
        lora = get_peft_model_state_dict(self.base.unet, adapter_name=ADAPTER)
        return {"lora": {k: v.detach().clone() for k, v in lora.items()}, "camera": self.camera_state()}

    @override
    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        try:
            result = set_peft_model_state_dict(self.base.unet, state["lora"], adapter_name=ADAPTER)
            if self.camera is not None:
                self.camera.load_state_dict(state["camera"])
        except (RuntimeError, KeyError) as error:  # tensors of other shapes, or another kind of network
            raise InputError(f"score network: the saved LoRA does not fit; {USE}") from error
        missing = [k for k in result.missing_keys if f".{ADAPTER}." in k]
        if missing or result.unexpected_keys:
            raise InputError(
                f"score network: the saved LoRA does not fit ({len(missing)} tensors missing, "
                f"{len(result.unexpected_keys)} unknown); {USE}"
            )

    @override
    def _save(self, folder: Path) -> None:
        # As pytorch_lora_weights.safetensors, which the base's pipeline loads.
        pipeline: type[DiffusionPipeline] = type(self.base.pipeline)
        pipeline.save_lora_weights(folder, unet_lora_layers=self.state()["lora"])


def load_score_base(model: str, prior: DiffusionPrior) -> DiffusionPrior:
    """Loads a second pipeline for phi, without its autoencoder.

    Args:
        model: A folder or a hub id.
        prior: The prior, whose latents it must share.

    Raises:
        InputError: It does not load, or its latents are not the prior's.
    """
    key = "guidance.score.model"
    base = DiffusionPrior.load(model, prior.device, prior.dtype, key, channels_last=prior.channels_last)
    channels = [p.unet.config.in_channels for p in (prior, base)]
    image = torch.linspace(-1, 1, 3 * 64 * 64, device=prior.device).view(1, 64, 64, 3).permute(0, 3, 1, 2)
    with torch.no_grad():
        ours, theirs = prior.encode(image, full=True), base.encode(image)
    if len(set(channels)) > 1 or ours.shape != theirs.shape or (ours - theirs).norm() > TOLERANCE * ours.norm():
        raise InputError(
            f"{key}: the latents of {model} ({channels[1]} channels) are not those of guidance.model "
            f"({channels[0]}); name a model with the same autoencoder"
        )
    base.vae = base.pipeline.vae = None
    return base
