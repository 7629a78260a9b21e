"""What every eps_phi(x_t, t, c, y) has in common: the camera, timesteps, predictions and losses.

x_0, x_t and eps are (B, C, H, W), t is (B,); cameras are camera-to-world matrices (B, 4, 4).
"""

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import InputError
from common.files import require_checksums, write_checksums
from vsd.prior import DiffusionPrior, Text
from vsd.schedule import matching_times, v_of_eps


class NoisePredictor(nn.Module):
    """A network that predicts the noise of the renders: `ScoreNetwork` or `SmallScoreNetwork`.

    Its `parameters()` go to any optimizer; `loss` is what they minimise.

    Args:
        base: Whose UNet predicts, and whose schedule it is for.
        prior: The prior whose timesteps `raw` and `predict` are given, where that is not `base`: they are converted to
            the timesteps of `base` that are as noisy.
    """

    def __init__(self, base: DiffusionPrior, prior: DiffusionPrior | None = None):
        super().__init__()
        self.base = base
        self.camera: nn.Sequential | None = None
        self._times = None if prior is None or prior is base else matching_times(prior.alphabar, base.alphabar)
        self._embedding: Tensor | None = None
        base.unet.time_embedding.register_forward_hook(self._add_camera)

    def _see_cameras(self) -> None:
        self.camera = _camera_embedding(self.base.unet.time_embedding.linear_2.out_features).to(self.base.device)

    def _add_camera(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output if self._embedding is None else output + self._embedding.to(output.dtype)

    def _switched(self, on: bool) -> AbstractContextManager[None]:
        """What makes the base's UNet this network, or the prior again, for a while."""
        return nullcontext()

    @contextmanager
    def _active(self, cameras: Tensor) -> Iterator[None]:
        if self.camera is not None:
            self._embedding = self.camera(cameras.reshape(len(cameras), 16).float())
        try:
            with self._switched(True):
                yield
        finally:
            self._embedding = None

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
        raise NotImplementedError

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restores what `state` has returned.

        Raises:
            InputError: It is of another architecture.
        """
        raise NotImplementedError

    def _save(self, folder: Path) -> None:
        """Writes the network's files into a folder."""
        raise NotImplementedError

    def export(self, folder: str | Path) -> None:
        """Writes the network, camera.safetensors where it has a camera, and their checksums.

        Args:
            folder: Where they go.
        """
        folder = Path(folder)
        try:
            self._save(folder)
            if self.camera is not None:
                save_file(self.camera.state_dict(), folder / "camera.safetensors")
        except SafetensorError as error:  # which wraps what the system said
            full = "os error 28" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder)) from error
        write_checksums(folder, list(folder.glob("*.safetensors")))

    def camera_state(self) -> dict[str, Tensor]:
        """Weights of the camera's embedding, none without a camera."""
        return {} if self.camera is None else self.camera.state_dict()

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
