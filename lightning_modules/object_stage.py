"""What the stages of 3D particles share: views dealt out to particles, guidance, validation strips, turntables.

A picture of a particle is squares side by side, (H, k H, 3), the first two of them colour and normal.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from common.errors import InputError
from lightning_modules.run.pictures import contact_sheet
from lightning_modules.stage import Stage
from scene import hashgrid, volume_rendering
from vsd.views import View


class ObjectStage(Stage):
    """A stage whose particles are seen by cameras (see datamodules.random_cameras for a batch of them)."""

    particles: nn.ModuleList

    @abstractmethod
    def picture(self, index: int, cameras: dict) -> Tensor:
        """The particle of an index seen by one camera, (H, k H, 3) in [0, 1], without gradients."""

    def say(self, words: str) -> None:
        """Prints a line, once for all ranks."""
        if self.trainer.is_global_zero:
            print(words, flush=True)

    def say_backends(self, encoding: str, meshes: bool) -> None:
        """Prints what runs the fields of an encoding, and the meshes, if the stage has any."""
        device = self.trainer.strategy.root_device
        if self.trainer.is_global_zero:
            grid = hashgrid.backend(device) if encoding == "hash" else "torch"
            marching = volume_rendering.backend(device)
            self.say(f"backends: {encoding} grid {grid}, marching {marching}" + (", rasteriser warp" if meshes else ""))
        self.trainer.strategy.barrier()  # rank zero may just have compiled what the others load

    def deal(self, batch: dict) -> tuple[list[tuple[int, dict]], int]:
        """The particles that this step moves, each with its share of the cameras, and how many steps they have made."""
        chosen, made = self.order(self.global_step)
        views = len(batch["fovy"])
        if views % len(chosen):
            raise InputError(
                f"data.milestones: {views} views cannot be dealt out evenly to {len(chosen)} particles a step; "
                "make batch_size a multiple of model.particles_per_step"
            )
        share = views // len(chosen)
        parts = [slice(k * share, (k + 1) * share) for k in range(len(chosen))]
        shares = [{key: v if key == "resolution" else v[part] for key, v in batch.items()} for part in parts]
        return list(zip(chosen, shares, strict=True)), made

    def behind(self, background: nn.Module, directions: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """What is behind the object on the rays (R, 3) of some views, (R, 3): a random plain colour or the learned one.

        The share of the plain ones is the stage's random_background.
        """
        learned = background(directions).view(views, -1, 3)
        plain = torch.rand(views, 1, 3, generator=generator, device=self.device)
        use_plain = torch.rand(views, 1, 1, generator=generator, device=self.device) < self.random_background
        return torch.where(use_plain, plain, learned).reshape(-1, 3)

    def guide(self, images: Tensor, batch: dict, made: int) -> Tensor:
        """The sum of the guidances' losses for renders.

        Args:
            images: (B, H, W, 3) in [0, 1].
            batch: The cameras of the renders.
            made: How many steps their particles have finished.

        Returns:
            A scalar.
        """
        pictures = 2 * images.permute(0, 3, 1, 2) - 1  # (B, 3, H, W)
        view = View(batch["camera_to_world"], batch["azimuth"], batch["elevation"])
        steps = torch.full((len(images),), made)
        return torch.stack([guidance.particle_loss(pictures, view, steps) for guidance in self.guidances]).sum()

    def see(self, cameras: dict) -> None:
        """Adds a picture of every particle to its strip."""
        for index, strip in enumerate(self.strips):
            strip.append(self.picture(index, cameras))

    def on_validation_epoch_start(self) -> None:
        self.strips: list[list[Tensor]] = [[] for _ in self.particles]

    def validation_step(self, batch: dict, _: int) -> None:
        self.see(batch)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            for i, strip in enumerate(self.strips):
                name = f"validation/particle{i}-step{self.global_step:06d}.png"
                self.keep_picture(f"validation/particle{i}", torch.cat(strip), name)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: dict, index: int) -> None:
        self.see(batch)

    def on_test_epoch_end(self) -> None:
        if self.trainer.is_global_zero:
            for i, frames in enumerate(self.strips):
                self.keep_video(f"turntable/particle{i}", torch.stack(frames), f"turntable-particle{i}.mp4")
                sides = [frame[:, : 2 * len(frame)] for frame in frames]  # colour and normal
                self.keep_picture(f"contact/particle{i}", contact_sheet(sides, 2), f"contact-particle{i}.png")


def require_share(key: str, value: float) -> None:
    """InputError where the value of a key is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise InputError(f"{key}: {value:g} is not in [0, 1]")


def field_optimizer(stage: ObjectStage) -> dict:
    """Adam, betas 0.9 and 0.99, eps 1e-15, over the fields and backgrounds of a stage's particles.

    The stage has lr_encoding, lr_network, lr_background, and lr_decay, the factor to which all of them fall,
    exponentially, by the trainer's last step.
    """
    if not 0 < stage.lr_decay <= 1:
        raise InputError(f"model.lr_decay: {stage.lr_decay:g} is not in (0, 1]")
    groups = [
        {"params": module.parameters(), "lr": lr}
        for p in stage.particles
        for module, lr in (
            (p.field.encoding, stage.lr_encoding),
            (p.field.network, stage.lr_network),
            (p.background, stage.lr_background),
        )
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    total = stage.trainer.estimated_stepping_batches
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: stage.lr_decay ** (step / total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
