"""Latents of past renders, from which phi learns besides those of the last step."""

import torch
from torch import Tensor

from common.errors import InputError


class Replay:
    """The last latents of renders and the cameras that saw them, on the device.

    Args:
        size: How many are kept, >= 1.

    Source: ProlificDreamer's code, `--buffer_size`.
    """

    def __init__(self, size: int):
        self.size = size
        self.kept: tuple[Tensor, Tensor] | None = None  # (N, C, h, w) and (N, 4, 4), oldest first

    def add(self, latents: Tensor, cameras: Tensor) -> None:
        """Keeps latents (B, C, h, w) and cameras (B, 4, 4), and forgets the oldest beyond the size."""
        if self.kept is not None:
            latents, cameras = torch.cat([self.kept[0], latents]), torch.cat([self.kept[1], cameras])
        self.kept = latents[-self.size :], cameras[-self.size :]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws among what is kept, each with the same chance; until that is `size`, the newest are taken.

        Args:
            count: B.
            generator: On the device.

        Returns:
            Latents (B, C, h, w) and cameras (B, 4, 4).
        """
        latents, cameras = self.kept
        if len(latents) < self.size:
            return latents[-count:], cameras[-count:]
        index = torch.randint(self.size, (count,), generator=generator, device=latents.device)
        return latents[index], cameras[index]

    def state_dict(self) -> dict:
        """What is kept, as plain tensors."""
        return {} if self.kept is None else dict(zip(("latents", "cameras"), self.kept, strict=True))

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Restores what `state_dict` has returned.

        Args:
            state: Of a replay of the same size.
            device: Where it is kept.

        Raises:
            InputError: It holds more.
        """
        if not state:
            return
        if len(state["latents"]) > self.size:
            raise InputError(
                f"guidance.score.replay: {self.size}, the checkpoint holds {len(state['latents'])} latents; resume "
                "with the size it was begun with"
            )
        self.kept = state["latents"].to(device), state["cameras"].to(device)
