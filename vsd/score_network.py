"""eps_phi(x_t, t, c, y): the score of the renders, as a LoRA on the prior's own UNet with a camera embedding.

One UNet serves both: without the adapter it is the prior, to the bit; with it, and with the camera's embedding added
to the time embedding, it is the score network. Cameras are camera-to-world matrices (B, 4, 4).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vsd.errors import InputError
from vsd.prior import DiffusionPrior, Text

ADAPTER = "phi"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class ScoreNetwork(nn.Module):
    """The trainable part of eps_phi; owns the adapter's parameters and the camera embedding, not the UNet.

    prior: whose UNet gets the adapter; rank: of the LoRA, alpha equals it; targets: names of the layers that get one.
    Source: ProlificDreamer, section 3.3 and appendix; the reference code embeds the flattened matrix likewise.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        rank: int = 4,
        targets: tuple[str, ...] = ATTENTION,
    ):
        super().__init__()
        if rank < 1:
            raise InputError(f"guidance.rank: {rank}; a LoRA needs a rank of at least 1")
        self._prior = [prior]  # in a list: the frozen network must not become part of this module
        unet = prior.unet
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), adapter_name=ADAPTER)
        cast_training_params(unet, dtype=torch.float32)
        self.adapter = nn.ParameterList(p for p in unet.parameters() if p.requires_grad)
        width = unet.time_embedding.linear_2.out_features
        self.camera = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width)).to(prior.device)
        # Starts as the prior itself: the camera's part of the embedding is learned from nothing.
        nn.init.zeros_(self.camera[2].weight)
        nn.init.zeros_(self.camera[2].bias)
        self._embedding: Tensor | None = None
        unet.time_embedding.register_forward_hook(self._add_camera)
        self._enable(False)

    def _add_camera(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output if self._embedding is None else output + self._embedding.to(output.dtype)

    def _enable(self, on: bool) -> None:
        unet = self._prior[0].unet
        unet.enable_adapters() if on else unet.disable_adapters()

    @contextmanager
    def _active(self, cameras: Tensor) -> Iterator[None]:
        self._embedding = self.camera(cameras.reshape(len(cameras), 16).float())
        self._enable(True)
        try:
            yield
        finally:
            self._embedding = None
            self._enable(False)
            # peft freezes what it disables; the optimizer's parameters must stay trainable.
            self.adapter.requires_grad_(True)

    def predict(self, x_t: Tensor, t: Tensor, text: Text, cameras: Tensor) -> Tensor:
        """eps_phi (B, C, H, W), float32. A camera of zeros is no camera."""
        with self._active(cameras):
            return self._prior[0].predict(x_t, t, text)

    def loss(
        self,
        x_0: Tensor,
        t: Tensor,
        eps: Tensor,
        text: Text,
        cameras: Tensor,
        hidden: Tensor,
        v_objective: bool = True,
        weight_limit: float = 20.0,
    ) -> Tensor:
        """Mean diffusion loss of phi on renders' latents x_0 (detached) with plain prompts.

        hidden: (B,) bool, whose camera is dropped; v_objective: the eps error is weighted with 1 / alphabar_t, which
        makes it the v error, but at most with `weight_limit`.
        """
        cameras = torch.where(hidden[:, None, None], torch.zeros_like(cameras), cameras)
        predicted = self.predict(self._prior[0].noise(x_0.detach(), t, eps), t, text, cameras)
        error = (predicted - eps).square().mean((1, 2, 3))
        if v_objective:
            error = error * (1 / self._prior[0].alphabar[t]).clamp(max=weight_limit)
        return error.mean()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What was trained, as plain tensors."""
        lora = get_peft_model_state_dict(self._prior[0].unet, adapter_name=ADAPTER)
        return {"lora": {k: v.detach().clone() for k, v in lora.items()}, "camera": self.camera.state_dict()}

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restores `state()`; InputError when it belongs to another architecture."""
        result = set_peft_model_state_dict(self._prior[0].unet, state["lora"], adapter_name=ADAPTER)
        missing = [k for k in result.missing_keys if f".{ADAPTER}." in k]
        if missing or result.unexpected_keys:
            raise InputError(
                f"score network: the saved LoRA does not fit ({len(missing)} tensors missing, "
                f"{len(result.unexpected_keys)} unknown); use the guidance.model, rank and targets it was trained with"
            )
        self.camera.load_state_dict(state["camera"])

    def export(self, folder: str | Path) -> None:
        """Writes pytorch_lora_weights.safetensors, which the prior's pipeline loads, and camera.safetensors."""
        folder = Path(folder)
        pipeline: type[DiffusionPipeline] = type(self._prior[0].pipeline)
        pipeline.save_lora_weights(folder, unet_lora_layers=self.state()["lora"])
        save_file(self.camera.state_dict(), folder / "camera.safetensors")

    def load_camera(self, file: str | Path) -> None:
        """Restores the camera embedding from an exported camera.safetensors."""
        self.camera.load_state_dict(load_file(file))
