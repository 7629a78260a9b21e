"""eps_phi(x_t, t, c, y): the score of the renders, as a LoRA on a pretrained UNet, with or without a camera.

The UNet is the prior's own, which serves both: without the adapter it is the prior, to the bit; with it, and with the
camera's embedding added to the time embedding, it is the score network. Or it is that of a second pipeline with the
same latents. x_0, x_t and eps are (B, C, H, W), t is (B,); cameras are camera-to-world matrices (B, 4, 4).
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import InputError
from common.files import require_checksums, write_checksums
from vsd.prior import DiffusionPrior, Text
from vsd.schedule import matching_times, v_of_eps

ADAPTER = "phi"
USE = "use the guidance.model and guidance.score's model, rank and targets that it was trained with"
TOLERANCE = 0.05  # between the latents of two copies of an autoencoder, of which one may be retouched
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# with the convolutions and feed-forward layers, which know of noise levels and colours
ALL_LAYERS = (*ATTENTION, "conv1", "conv2", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")


class ScoreNetwork(nn.Module):
    """The trainable part of eps_phi. Owns the adapter's parameters and the camera embedding, not the UNet.

    Its `parameters()` go to any optimizer; `loss` is what they minimise.

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
        super().__init__()
        if rank < 1:
            raise InputError(f"guidance.score.rank: {rank}; a LoRA needs a rank of at least 1")
        self.base = base
        unet = base.unet
        try:
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), adapter_name=ADAPTER)
        except ValueError as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"guidance.score.targets: {', '.join(targets)} do not fit the UNet ({reason})") from error
        cast_training_params(unet, dtype=torch.float32)
        self.adapter = nn.ParameterList(p for p in unet.parameters() if p.requires_grad)
        self.camera = _camera_embedding(unet.time_embedding.linear_2.out_features).to(base.device) if camera else None
        self._times = None if prior is None or prior is base else matching_times(prior.alphabar, base.alphabar)
        self._embedding: Tensor | None = None
        unet.time_embedding.register_forward_hook(self._add_camera)
        self._layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
        self._enable(False)
        if checkpointing:
            unet.enable_gradient_checkpointing(self._checkpointed)

    def _checkpointed(self, block: nn.Module, *inputs: Tensor) -> Tensor | tuple:
        on = self._on  # the backward comes when the adapter is off again

        def contexts() -> tuple:
            return nullcontext(), self._switched(on)

        return checkpoint(block.__call__, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    def _add_camera(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output if self._embedding is None else output + self._embedding.to(output.dtype)

    def _enable(self, on: bool) -> None:
        # peft's own switch walks all modules and freezes what it disables: a tenth of a small network's pass.
        self._on = on
        for layer in self._layers:
            layer._disable_adapters = not on

    @contextmanager
    def _active(self, cameras: Tensor) -> Iterator[None]:
        if self.camera is not None:
            self._embedding = self.camera(cameras.reshape(len(cameras), 16).float())
        try:
            with self._switched(True):
                yield
        finally:
            self._embedding = None

    @contextmanager
    def _switched(self, on: bool) -> Iterator[None]:
        before = self._on
        self._enable(on)
        try:
            yield
        finally:
            self._enable(before)

    def own_times(self, t: Tensor) -> Tensor:
        """Timesteps (B,) of this network's schedule for those of the prior."""
        return t if self._times is None else self._times[t]

    def raw(self, x_t: Tensor, t: Tensor, text: Text, cameras: Tensor | None = None) -> Tensor:
        """What the network itself predicts, eps or v.

        Args:
            x_t: (B, C, H, W).
            t: (B,), the prior's timesteps.
            text: Of B prompts.
            cameras: (B, 4, 4); zeros are no camera. Ignored by a network without a camera.

        Returns:
            (B, C, H, W), float32.
        """
        return self._raw(x_t, self.own_times(t), text, cameras)

    def _raw(self, x_t: Tensor, t: Tensor, text: Text, cameras: Tensor | None) -> Tensor:
        with self._active(torch.zeros(len(x_t), 4, 4, device=x_t.device) if cameras is None else cameras):
            return self.base.raw(x_t, t, text)

    def eps_of(self, raw: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """eps_phi (B, C, H, W) from what `raw` has returned for the same x_t and t."""
        return self.base.eps_of(raw, x_t, self.own_times(t))

    def predict(self, x_t: Tensor, t: Tensor, text: Text, cameras: Tensor | None = None) -> Tensor:
        """eps_phi (B, C, H, W), float32; arguments as for `raw`."""
        return self.eps_of(self.raw(x_t, t, text, cameras), x_t, t)

    def loss(
        self,
        x_0: Tensor,
        text: Text,
        cameras: Tensor | None = None,
        t: Tensor | None = None,
        eps: Tensor | None = None,
        v_objective: bool = True,
        weight_limit: float = 20.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The mean diffusion loss of phi.

        Args:
            x_0: (B, C, H, W), latents of the renders, without a graph.
            text: Of B prompts, those of the renders.
            cameras: (B, 4, 4); zeros, or None, are no camera.
            t: (B,), timesteps of this network's own schedule; drawn uniformly if None.
            eps: (B, C, H, W), the noise; drawn if None.
            v_objective: See `error`.
            weight_limit: See `error`.
            generator: Draws t and eps, on the device of x_0.

        Returns:
            A scalar.
        """
        if t is None:
            t = torch.randint(0, self.base.steps, (len(x_0),), generator=generator, device=x_0.device)
        if eps is None:
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
        raw = self._raw(self.base.noise(x_0, t, eps), t, text, cameras)
        return self.error(raw, x_0, t, eps, v_objective, weight_limit)

    def error(
        self, raw: Tensor, x_0: Tensor, t: Tensor, eps: Tensor, v_objective: bool = True, weight_limit: float = 20.0
    ) -> Tensor:
        """The mean square error of a prediction for latents x_0 noised with eps at own timesteps t.

        Args:
            raw: (B, C, H, W), what the network has predicted, eps or v.
            x_0: (B, C, H, W).
            t: (B,), timesteps of this network's own schedule.
            eps: (B, C, H, W).
            v_objective: Whether the error is that of v, which is the error of eps weighted with 1 / alphabar_t.
                Otherwise it is that of eps (ProlificDreamer, equation 8; SwiftBrush).
            weight_limit: The largest weight, > 0, for a network that predicts eps.

        Returns:
            A scalar.
        """
        alphabar = self.base.alphabar[t]
        if v_objective and self.base.is_v:
            return (raw - v_of_eps(eps, x_0, alphabar)).square().mean()
        error = (self.base.eps_of(raw, self.base.noise(x_0, t, eps), t) - eps).square().mean((1, 2, 3))  # (B,)
        if v_objective:
            error = error * (1 / alphabar).clamp(max=weight_limit)
        return error.mean()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What was trained, as plain tensors."""
        lora = get_peft_model_state_dict(self.base.unet, adapter_name=ADAPTER)
        camera = {} if self.camera is None else self.camera.state_dict()
        return {"lora": {k: v.detach().clone() for k, v in lora.items()}, "camera": camera}

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restores what `state` has returned.

        Raises:
            InputError: It is of another architecture.
        """
        try:
            result = set_peft_model_state_dict(self.base.unet, state["lora"], adapter_name=ADAPTER)
            if self.camera is not None:
                self.camera.load_state_dict(state["camera"])
        except RuntimeError as error:  # tensors of other shapes
            raise InputError(f"score network: the saved LoRA does not fit; {USE}") from error
        missing = [k for k in result.missing_keys if f".{ADAPTER}." in k]
        if missing or result.unexpected_keys:
            raise InputError(
                f"score network: the saved LoRA does not fit ({len(missing)} tensors missing, "
                f"{len(result.unexpected_keys)} unknown); {USE}"
            )

    def export(self, folder: str | Path) -> None:
        """Writes pytorch_lora_weights.safetensors, which the base's pipeline loads, camera.safetensors, and their sums.

        Args:
            folder: Where they go.
        """
        folder = Path(folder)
        pipeline: type[DiffusionPipeline] = type(self.base.pipeline)
        try:
            pipeline.save_lora_weights(folder, unet_lora_layers=self.state()["lora"])
            if self.camera is not None:
                save_file(self.camera.state_dict(), folder / "camera.safetensors")
        except SafetensorError as error:  # which wraps what the system said
            full = "os error 28" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder)) from error
        write_checksums(folder, list(folder.glob("*.safetensors")))

    def load_camera(self, file: str | Path) -> None:
        """Restores the camera embedding from an exported camera.safetensors.

        Args:
            file: In the folder of the export, all of which is checked.

        Raises:
            InputError: A file of the export is damaged.
        """
        require_checksums(Path(file).parent, "score network")
        try:
            self.camera.load_state_dict(load_file(file))
        except (SafetensorError, RuntimeError) as error:
            raise InputError(f"score network: {file} is no camera embedding of this network") from error


def _camera_embedding(width: int) -> nn.Sequential:
    """From flattened matrices (B, 16) to what is added to the time embedding (B, width)."""
    layers = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
    # Starts as the prior itself: the camera's part of the embedding is learned from nothing.
    nn.init.zeros_(layers[2].weight)
    nn.init.zeros_(layers[2].bias)
    return layers


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
