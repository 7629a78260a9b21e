"""eps_phi as a small UNet of its own, with random weights at first, in the place of a LoRA on the prior's UNet.

It costs a fraction of a pass of Stable Diffusion's UNet, and has everything to learn: without a pretrained base its
prediction is far from the renders' score at first.
"""

from copy import copy
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from typing_extensions import override

from common.errors import InputError
from vsd.noise_predictor import NoisePredictor
from vsd.prior import DiffusionPrior, Text

WIDTHS = (64, 128, 256)  # channels, from the finest level to the coarsest


class SmallScoreNetwork(NoisePredictor):
    """A UNet with text and, if wanted, a camera, all of whose weights are trained, in float32.

    Args:
        prior: Whose latents, schedule and text states it is for.
        camera: Whether phi is told the camera.
        checkpointing: Whether passes with a gradient keep few activations, which their backward computes anew.

    Raises:
        InputError: The prior's latents cannot be halved twice.

    Source: ProlificDreamer's public 2D code, `--phi_model unet_simple`: three levels of these widths, one layer per
    block, attention to the text but at the coarsest; it predicts eps. The camera is an addition, as in `ScoreNetwork`.
    """

    def __init__(self, prior: DiffusionPrior, camera: bool = False, checkpointing: bool = False):
        channels, *sides = prior.latent_shape
        if any(side % 4 for side in sides):
            raise InputError(f"guidance.score.network: 'small' halves latents twice, those of {sides} cannot be halved")
        unet = UNet2DConditionModel(
            sample_size=sides[0],
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=WIDTHS,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=prior.unet.config.cross_attention_dim,
        ).to(prior.device)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        base = copy(prior)  # the same schedule and device with another network
        base.unet = base.network = unet
        base.is_v, base.dtype = False, torch.float32
        super().__init__(base)
        self.unet = unet
        if camera:
            self._see_cameras()

    @override
    def _raw(self, x_t: Tensor, t: Tensor, text: Text, cameras: Tensor | None) -> Tensor:
        return super()._raw(x_t, t, Text(text.states.float()), cameras)

    @override
    def state(self) -> dict[str, dict[str, Tensor]]:
        return {
            "unet": {k: v.detach().clone() for k, v in self.unet.state_dict().items()},
            "camera": self.camera_state(),
        }

    @override
    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        try:
            self.unet.load_state_dict(state["unet"])
            if self.camera is not None:
                self.camera.load_state_dict(state["camera"])
        except (RuntimeError, KeyError) as error:  # tensors of other shapes, or another kind of network
            raise InputError(
                "score network: what is saved is no small UNet for this prior; use the guidance.model and "
                "guidance.score.network that it was trained with"
            ) from error

    @override
    def _save(self, folder: Path) -> None:
        self.unet.save_pretrained(folder)
