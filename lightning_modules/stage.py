"""What the stages share: particles, guidances, the run folder and the pictures in it."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from common.errors import InputError
from common.randomness import generator
from lightning_modules.particles import RoundRobin
from lightning_modules.run.checkpoints import mark, require_mark, require_weights
from lightning_modules.run.loggers import show_picture, show_video
from lightning_modules.run.pictures import save_picture, save_video
from vsd.guidance import VSDGuidance


class Stage(pl.LightningModule):
    """A stage of n particles of which m move a step, guided by the VSDGuidance callbacks among the trainer's.

    particles: n; particles_per_step: m; seed: of the order and of what the stage draws.
    """

    def __init__(self, particles: int, particles_per_step: int, seed: int):
        super().__init__()
        self.order = RoundRobin(particles, particles_per_step, seed)
        self.seed = seed
        self.guidances: list[VSDGuidance] = []

    def particle_tensors(self, index: int) -> list[Tensor]:
        """The parameters and buffers of a particle, those of which a checkpoint is made."""
        return list(self.particles[index].state_dict(keep_vars=True).values())

    def require_guidance(self) -> None:
        """InputError where no callback has offered itself."""
        if not self.guidances:
            raise InputError("trainer.callbacks: no guidance; list vsd.guidance.VSDGuidance with a prompt")

    def setup(self, stage: str) -> None:
        # Ranks that are started on their own read the clock on their own.
        self.run_folder = Path(self.trainer.strategy.broadcast(self.trainer.default_root_dir))
        self.order.of_rank(self.trainer.global_rank, self.trainer.world_size)

    def keep_picture(self, key: str, images: Tensor, name: str) -> None:
        """Writes an image (H, W, 3) in [0, 1] into the run folder, and shows it in the loggers under `key`."""
        save_picture(images, self.run_folder / name)
        show_picture(self.loggers, key, self.run_folder / name, self.global_step)

    def keep_video(self, key: str, frames: Tensor, name: str) -> None:
        """Writes frames (T, H, W, 3) in [0, 1] into the run folder, and shows the video in the loggers under `key`."""
        save_video(frames, self.run_folder / name)
        show_video(self.loggers, key, self.run_folder / name, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        mark(checkpoint, self)
        checkpoint["vsd"]["rounds"] = self.order.state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        require_mark(checkpoint, type(self).__name__)
        require_weights(checkpoint["state_dict"], self)
        self.order.go_on(checkpoint["vsd"]["rounds"], checkpoint["global_step"])

    def generator(self, *stream: int) -> torch.Generator:
        """A generator on the stage's device that is a function of (seed, rank, step) and the stream's numbers."""
        return generator(self.device, self.seed, self.global_rank, self.global_step, *stream)
