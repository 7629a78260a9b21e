"""What the stages of 3D particles have in common: cameras per particle, guidance, validation strips, turntables.

A picture of a particle is a row of squares, (H, k H, 3), the first two of them colour and normal. `vsd predict` writes
the colours alone that the cameras of the datamodule's predict_dataloader see, predict/particleN/FRAME.png and
predict/particleN.mp4.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.errors import InputError
from common.pixels import to_uint8
from lightning_modules.run.hardware import require_ffmpeg, require_kernels
from lightning_modules.run.pictures import contact_sheet, save_picture, save_video
from lightning_modules.stage import Stage
from scene import hashgrid, volume_rendering
from scene.cameras import Cameras
from vsd.views import View

LARGEST_GRID = 512  # cells of a tetrahedral grid along an axis


class ObjectStage(Stage):
    """A stage whose particles are seen by cameras, of which the datamodule gives a batch per step."""

    particles: nn.ModuleList

    @override
    def require_inputs(self, checkpoint: str | None) -> None:
        require_ffmpeg()

    def picture(self, index: int, cameras: Cameras) -> Tensor:
        """Renders a particle for people, without gradients.

        Args:
            index: Of the particle.
            cameras: One camera, of H x H pixels.

        Returns:
            (H, k H, 3) in [0, 1].
        """
        raise NotImplementedError

    def print_backends(self, encoding: str, meshes: bool, padded: bool = False) -> None:
        """Prints the backends that the stage runs on, once the device is known to have them. All ranks must call it.

        Args:
            encoding: Of the particles' fields, "hash" or "dense".
            meshes: Whether the stage renders meshes.
            padded: Whether the hash grids are padded.

        Raises:
            InputError: The device cannot do what the stage computes.
        """
        device = self.trainer.strategy.root_device
        require_kernels(device, meshes, encoding == "hash")
        if self.trainer.is_global_zero:
            grid = hashgrid.backend(device, padded) if encoding == "hash" else "torch"
            marching = volume_rendering.backend(device)
            rasteriser = ", rasteriser warp" if meshes else ""
            self.print_rank_zero(f"backends: {encoding} grid {grid}, marching {marching}{rasteriser}")
        self.trainer.strategy.barrier()  # rank zero may just have compiled what the others load

    def assign_cameras(self, batch: Cameras) -> tuple[list[tuple[int, Cameras]], int]:
        """Divides a batch evenly among the particles that this step moves.

        Args:
            batch: B cameras, B a multiple of the number of particles.

        Returns:
            Index and cameras of every particle, and how many steps each of them has made.

        Raises:
            InputError: The batch cannot be divided evenly.
        """
        chosen, particle_step = self.order(self.global_step)
        if len(batch) % len(chosen):
            raise InputError(
                f"data.milestones: {len(batch)} views cannot be divided evenly among {len(chosen)} particles per step; "
                "make batch_size a multiple of model.particles_per_step"
            )
        views = len(batch) // len(chosen)
        return [(index, batch[k * views : (k + 1) * views]) for k, index in enumerate(chosen)], particle_step

    def guide(self, images: Tensor, batch: Cameras, particle_step: int) -> Tensor:
        """The sum of the guidances' losses for renders.

        Args:
            images: (B, H, W, 3) in [0, 1].
            batch: The B cameras that see them.
            particle_step: How many steps their particles have finished.

        Returns:
            A scalar.
        """
        pictures = 2 * images.permute(0, 3, 1, 2) - 1  # (B, 3, H, W)
        view = View(batch.camera_to_world, batch.azimuth, batch.elevation)
        steps = torch.full((len(images),), particle_step)
        return torch.stack([guidance.particle_loss(pictures, view, steps) for guidance in self.guidances]).sum()

    def render_strips(self, cameras: Cameras) -> None:
        """Adds a picture of every particle that this rank renders to its strip, on the CPU.

        Args:
            cameras: One camera.
        """
        for index, strip in self.strips.items():
            strip.append(to_uint8(self.picture(index, cameras)))

    @override
    def on_validation_epoch_start(self) -> None:
        self.strips: dict[int, list[Tensor]] = {i: [] for i in self.order.rendered}

    @override
    def validation_step(self, batch: Cameras, _: int) -> None:
        self.render_strips(batch)

    @override
    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        names = {i: f"validation/particle{i}-step{self.trained_steps:06d}.png" for i in range(self.order.n)}
        for i, strip in self.strips.items():
            save_picture(torch.cat(strip), self.run_folder / names[i])
        self.trainer.strategy.barrier()  # the first rank shows what all have written
        for i, name in names.items():
            self.show(f"validation/particle{i}", name)

    @override
    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    @override
    def test_step(self, batch: Cameras, index: int) -> None:
        self.render_strips(batch)

    @override
    def on_test_epoch_end(self) -> None:
        for i, frames in self.strips.items():
            save_video(torch.stack(frames), self.run_folder / f"turntable-particle{i}.mp4")
            sides = [frame[:, : 2 * len(frame)] for frame in frames]  # colour and normal
            save_picture(contact_sheet(sides, 2), self.run_folder / f"contact-particle{i}.png")
        self.trainer.strategy.barrier()
        for i in range(self.order.n):
            self.show(f"turntable/particle{i}", f"turntable-particle{i}.mp4")
            self.show(f"contact/particle{i}", f"contact-particle{i}.png")

    @override
    def on_predict_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    @override
    def predict_step(self, batch: Cameras, index: int) -> None:
        for i, frames in self.strips.items():
            frames.append(to_uint8(self.picture(i, batch)[:, : batch.resolution]))  # the colour
            save_picture(frames[-1], self.run_folder / f"predict/particle{i}/{index:04d}.png")

    @override
    def on_predict_epoch_end(self) -> None:
        for i, frames in self.strips.items():
            save_video(torch.stack(frames), self.run_folder / f"predict/particle{i}.mp4")
