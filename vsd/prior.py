"""The pretrained diffusion model as a frozen prior: encode, noise, predict eps whatever the network predicts.

Works with any diffusers pipeline around a UNet2DConditionModel: Stable Diffusion 1.x and 2.x, SDXL, the toybox.
Images are (B, 3, H, W) in [-1, 1], latents x_0 are scaled to about unit variance, t are integers in 0 ... T - 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from common.errors import InputError
from vsd import encoding
from vsd.prior_files import TOYBOX as TOYBOX
from vsd.prior_files import load_pipeline
from vsd.prior_files import toybox_folder as toybox_folder
from vsd.schedule import add_noise, eps_of_v


@dataclass
class Text:
    """Text conditions of B prompts.

    Args:
        states: Hidden states (B, L, D).
        pooled: The pooled embedding (B, P) of SDXL; None for others.
    """

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index) -> "Text":
        return Text(self.states[index], None if self.pooled is None else self.pooled[index])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Text":
        """The same on a device, in a dtype."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return Text(self.states.to(device, dtype), pooled)

    def repeat(self, count: int) -> "Text":
        """The first prompt for a batch of `count`."""
        return self[torch.zeros(count, dtype=torch.long, device=self.states.device)]

    def lerp(self, other: "Text", weight: Tensor) -> "Text":
        """Per prompt (1 - weight) of this one and `weight` (B,) of the other."""
        weight = weight.to(self.states)
        pooled = None if self.pooled is None else torch.lerp(self.pooled, other.pooled, weight[:, None])
        return Text(torch.lerp(self.states, other.states, weight[:, None, None]), pooled)

    @staticmethod
    def cat(texts: list["Text"]) -> "Text":
        """One batch of all prompts."""
        pooled = None if texts[0].pooled is None else torch.cat([t.pooled for t in texts])
        return Text(torch.cat([t.states for t in texts]), pooled)


class DiffusionPrior:
    """A frozen text-to-image diffusion model.

    Args:
        pipeline: A diffusers pipeline whose UNet is a UNet2DConditionModel with eps or v prediction.
        device: Of its networks.
        dtype: Of its networks, float32 or bfloat16.
        key: The setting that named the pipeline, for messages.
        encoder: What encodes images instead of the pipeline's own autoencoder: any network with `encode`, such as an
            AutoencoderTiny of the same latents; None for the pipeline's.
        checkpointing: Whether encoding keeps few activations, which its backward computes anew.
        channels_last: Whether the weights of convolutions lie channels last in memory.
        slicing: Whether views are encoded one after the other, see vsd.encoding.

    Attributes:
        unet: The UNet.
        network: What a pass calls: the UNet, or its compiled form.
        vae: The pipeline's autoencoder, which decodes.
        encoder: What encodes.
        alphabar: (T,), on the device.
        is_v: Whether the UNet predicts v.
        image_size: Pixels of a side.
        latent_shape: (C, h, w) of the latents at that size.

    Raises:
        InputError: The dtype or the kind of prediction cannot be used.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        key: str = "guidance.model",
        encoder: nn.Module | None = None,
        checkpointing: bool = False,
        channels_last: bool = False,
        slicing: bool = False,
    ):
        if dtype not in (torch.float32, torch.bfloat16):
            raise InputError(
                f"guidance.dtype: {dtype}; gradients through a {dtype} prior underflow, use float32 or bfloat16"
            )
        prediction = pipeline.scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise InputError(f"{key}: its scheduler predicts '{prediction}'; epsilon or v_prediction is needed")
        self.device, self.dtype = torch.device(device), dtype
        self.is_v = prediction == "v_prediction"
        self.pipeline = pipeline
        self.encoder = pipeline.vae if encoder is None else encoder
        self.checkpointing, self.channels_last, self.slicing = checkpointing, channels_last, slicing
        for part in (pipeline.unet, pipeline.vae, self.encoder):
            self.freeze(part)
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.network: Callable = pipeline.unet
        self.alphabar = pipeline.scheduler.alphas_cumprod.to(device, torch.float32)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side = self.unet.config.sample_size
        self.image_size, self.latent_shape = side * self.factor, (self.unet.config.in_channels, side, side)

    @classmethod
    def load(
        cls,
        model: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        key: str = "guidance.model",
        **switches: bool,
    ) -> "DiffusionPrior":
        """From a folder, a hub id, or "toybox"; see load_pipeline; switches: checkpointing, channels_last, slicing."""
        return cls(load_pipeline(model, dtype, key), device, dtype, key, **switches)

    def freeze(self, part: nn.Module) -> None:
        """Puts a network where the prior is, in its dtype and layout, without gradients of its weights."""
        part.to(self.device).requires_grad_(False).eval()
        if part.dtype != self.dtype:
            part.to(self.dtype)
        if self.channels_last:
            part.to(memory_format=torch.channels_last)
        # phi decides for the UNet: its recomputation needs the adapter.
        if self.checkpointing and part is not self.pipeline.unet:
            part.enable_gradient_checkpointing()

    @property
    def steps(self) -> int:
        """T, the length of the noise schedule."""
        return len(self.alphabar)

    def encode(self, images: Tensor, full: bool = False, posterior: torch.Generator | None = None) -> Tensor:
        """Latents x_0 of images, with a graph; of an encoder with a posterior its mode, or a sample.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            full: Whether the pipeline's own autoencoder encodes, even where there is another encoder.
            posterior: Draws the sample, on the prior's device; None for the mode.

        Returns:
            (B, C, H / factor, W / factor), float32.
        """
        encoder = self.vae if full else self.encoder
        latents = encoding.encode(encoder, images.to(self.dtype), posterior, self.slicing)
        return latents.float() * encoder.config.scaling_factor

    def is_latent(self, images: Tensor) -> bool:
        """Whether a batch holds latents, told by the number of its channels, or else images."""
        return images.shape[1] == self.latent_shape[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), float32."""
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype)).sample.float()

    def noise(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha_t x_0 + sigma_t eps for timesteps t (B,)."""
        return add_noise(x_0, eps, self.alphabar[t])

    def conditions(self, text: Text, shape: torch.Size) -> dict | None:
        """SDXL's added conditions for latents of this shape: pooled text, and the size as original and target."""
        if text.pooled is None:
            return None
        height, width = (side * self.factor for side in shape[-2:])
        ids = torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype)
        return {"text_embeds": text.pooled, "time_ids": ids.to(self.device, non_blocking=True).expand(shape[0], 6)}

    def raw(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """What the network itself predicts, eps or v: (B, C, H, W), float32, for timesteps t (B,) and B prompts."""
        return self.network(
            x_t.to(self.dtype), t, encoder_hidden_states=text.states, added_cond_kwargs=self.conditions(text, x_t.shape)
        ).sample.float()

    def eps_of(self, raw: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """eps (B, C, H, W) from `raw`'s prediction."""
        return eps_of_v(raw, x_t, self.alphabar[t]) if self.is_v else raw

    def predict(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """eps (B, C, H, W), float32, for timesteps t (B,) and B prompts."""
        return self.eps_of(self.raw(x_t, t, text), x_t, t)

    @torch.no_grad()
    def predict_many(self, x_t: Tensor, t: Tensor, texts: list[Text]) -> list[Tensor]:
        """eps for several texts per latent, in one pass of the network."""
        count = len(texts)
        return list(self.predict(x_t.repeat(count, 1, 1, 1), t.repeat(count), Text.cat(texts)).chunk(count))
