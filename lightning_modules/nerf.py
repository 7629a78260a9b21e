"""The NeRF stage: particles are radiance fields, g(theta, c) is their volume rendering.

A step moves m particles, among which the batch's cameras are divided evenly. Pictures in the run folder: after every
validation one strip per particle (colour, normal, depth, opacity), at the end a turntable.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.checks import require_positive, require_range
from lightning_modules.field_training import Backgrounds, FieldRates
from lightning_modules.object_stage import ObjectStage
from lightning_modules.regularisers import Regularisers
from scene.cameras import Cameras
from scene.hashgrid import HashGrid, Interpolation
from scene.marching import enter_cube
from scene.radiance_field import Background, DenseGrid, Initialisation, RadianceField
from scene.volume_rendering import VolumeRender, VolumeRenderer


@dataclass(frozen=True)
class FieldSettings:
    """The radiance field of a particle and its renderer.

    Args:
        encoding: "hash", ProlificDreamer's grid of 12 M parameters, or "dense", which a CPU renders several times
            faster.
        bound: Half the side of the cube that the field fills, world units.
        hidden: Width of the hidden layer after the encoding; 0 for none, a linear decoder.
        initialisation: Density to start from: "object", a blob; "scene", a hollow; "object-in-scene", both; "none".
        strength: Height of the initial density.
        radius: Of the initial blob, world units.
        occupancy: Cells of the occupancy grid along an axis.
        samples: Intervals of a ray along the cube's diagonal.
        max_samples: Largest number of samples of a render, beyond which the intervals get longer.
        finest: Vertices per axis of the hash grid's finest level, >= 16; the coarsest of the 16 levels has 16.
        interpolation: Inside the hash grid's cells: "linear" or "smoothstep".
        padded: Whether the hash grid has the vertices beyond the last, see scene.hashgrid.HashGrid.
        density_noise: Standard deviation of the noise on the density before its activation, in training, >= 0.
        chunk: Rays that are rendered at once, >= 1, as many as a view of 128 pixels for 16384; their backward computes
            the field's activations anew, so that memory holds those of one chunk. The gradient is the same up to
            rounding. null for all rays at once, without recomputation.

    Raises:
        InputError: A value is out of its range.
    """

    encoding: Literal["hash", "dense"] = "hash"
    bound: float = 1.0
    hidden: int = 64
    initialisation: Initialisation = "object"
    strength: float = 10.0
    radius: float = 0.5
    occupancy: int = 32
    samples: int = 512
    max_samples: int = 2**22
    finest: int = 4096
    interpolation: Interpolation = "linear"
    padded: bool = False
    density_noise: float = 0.0
    chunk: int | None = None

    def __post_init__(self):
        for name in ("bound", "radius"):
            require_positive(f"model.field.{name}", getattr(self, name))
        for name, least, most in (
            ("hidden", 0, 4096),
            ("occupancy", 1, 512),
            ("samples", 1, 2**16),
            ("max_samples", 1, 2**30),
            ("finest", 16, 2**20),
            ("density_noise", 0, math.inf),
            ("chunk", 1, 2**30),
        ):
            require_range(f"model.field.{name}", getattr(self, name), least, most)


class NerfParticle(nn.Module):
    """One theta: field, background, and its own occupancy grid.

    Args:
        settings: Of the field and its renderer.
    """

    def __init__(self, settings: FieldSettings):
        super().__init__()
        self.settings = settings
        scale = (settings.finest / 16) ** (1 / 15)
        hashed = {"per_level_scale": scale, "interpolation": settings.interpolation, "padded": settings.padded}
        encoding = HashGrid(**hashed) if settings.encoding == "hash" else DenseGrid()
        self.field = RadianceField(
            encoding, settings.bound, settings.hidden, settings.initialisation, settings.strength, settings.radius
        )
        self.background = Background()
        self.renderer = VolumeRenderer(
            settings.bound,
            settings.occupancy,
            settings.samples,
            max_samples=settings.max_samples,
            chunk=settings.chunk,
        )


class NerfStage(ObjectStage):
    """Distills radiance fields.

    Adam has betas 0.9 and 0.99, eps 1e-15.

    Args:
        particles: Number of particles, n >= 1.
        particles_per_step: Particles that a step moves, m in 1 ... n.
        field: The radiance field of each particle.
        losses: Weights of the regularisers.
        lr_encoding: Learning rate of the fields' encodings.
        lr_network: Learning rate of the fields' networks.
        lr_background: Learning rate of the learned backgrounds.
        lr_decay: Factor in (0, 1] to which the learning rates fall, exponentially, by the trainer's last step; it
            averages the noise of the guidance away.
        random_background: Probability in [0, 1] that a view has one random plain colour behind the object, else the
            learned background.
        eval_background: Grey in [0, 1] of pictures, None for the learned background.
        random_background_from: The particle's step from which on random_background holds; until then all views have
            the learned background.
        weight_decay: AdamW's, >= 0.
        seed: Of the start, the particles' order and everything drawn in training, >= 0.

    Raises:
        InputError: An option is impossible.

    Source: ProlificDreamer, tables of the appendix and its code.
    """

    def __init__(
        self,
        particles: int = 1,
        particles_per_step: int = 1,
        field: FieldSettings | None = None,
        losses: Regularisers | None = None,
        lr_encoding: float = 1e-2,
        lr_network: float = 1e-3,
        lr_background: float = 1e-3,
        lr_decay: float = 1.0,
        random_background: float = 0.5,
        eval_background: float | None = None,
        random_background_from: int = 0,
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        super().__init__(particles, particles_per_step, seed)
        self.backgrounds = Backgrounds(random_background, random_background_from, eval_background)
        self.rates = FieldRates(lr_encoding, lr_network, lr_background, lr_decay, weight_decay)
        self.field_settings, self.losses = field or FieldSettings(), losses or Regularisers()

    @override
    def configure_model(self) -> None:
        if hasattr(self, "particles"):
            return
        if self.trainer.training:
            self.require_guidance()
        # Lightning builds stages on their device; the start is the same on each.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            self.particles = nn.ModuleList(NerfParticle(self.field_settings) for _ in range(self.order.n))
        self.print_backends(self.field_settings.encoding, meshes=False, padded=self.field_settings.padded)

    @override
    def configure_optimizers(self) -> dict:
        return self.rates.optimizer(self.particles, self.trainer.estimated_stepping_batches)

    def render(
        self, particle: NerfParticle, cameras: Cameras, generator: torch.Generator | None = None, normals: bool = False
    ) -> tuple[VolumeRender, Tensor]:
        """Renders a particle.

        Args:
            particle: What is seen.
            cameras: B cameras of S x S pixels.
            generator: Draws the shifts of the samples along their rays and the noise on the density; None for neither.
            normals: Whether normals are rendered too.

        Returns:
            The render of all R = B S^2 rays, and their directions (R, 3).
        """
        origins, directions = cameras.rays()  # (R, 3)
        jitter, noise, deviation = None, None, self.field_settings.density_noise
        if generator is not None:
            jitter = torch.rand(len(origins), generator=generator, device=self.device)
        if generator is not None and deviation:

            def noise(count: int) -> Tensor:
                return deviation * torch.randn(count, generator=generator, device=self.device)

        return particle.renderer(particle.field, origins, directions, jitter, normals, noise), directions

    @override
    def training_step(self, batch: Cameras, _: int) -> Tensor:
        assigned, particle_step = self.assign_cameras(batch)
        size, generator = batch.resolution, self.generator()
        images, penalties = [], []
        for index, cameras in assigned:
            particle = self.particles[index]
            particle.renderer.update(particle_step, particle.field, self.seed + index)
            out, directions = self.render(particle, cameras, generator)
            views = len(cameras)
            background = self.backgrounds.draw(particle.background, directions, views, generator, particle_step)
            images.append((out.rgb + (1 - out.opacity) * background).view(views, size, size, 3))
            span = enter_cube(*cameras.rays(), particle.renderer.bound)
            penalties.append(self.losses.penalty(out, particle_step, span))
        loss = self.guide(torch.cat(images), batch, particle_step)
        penalty = torch.stack(penalties).mean()
        self.log_dict({"train/guidance": loss.detach(), "train/penalty": penalty.detach()}, prog_bar=True)
        return loss + penalty

    @override
    @torch.no_grad()
    def picture(self, index: int, cameras: Cameras) -> Tensor:
        """Colour, normal, depth and opacity side by side, (S, 4 S, 3); near surfaces have a bright depth."""
        particle, size = self.particles[index], cameras.resolution
        out, directions = self.render(particle, cameras, normals=True)
        background = self.backgrounds.of_picture(particle.background, directions)
        colour = out.rgb + (1 - out.opacity) * background  # (S^2, 3)
        normal = 0.5 * (out.normal + 1) * out.opacity + (1 - out.opacity)  # (S^2, 3)
        distance = cameras.distance.item()
        reach = 3**0.5 * particle.renderer.bound
        near = (distance + reach - out.depth / out.opacity.clamp(min=1e-6)) / (2 * reach) * out.opacity  # (S^2, 1)
        columns = [colour, normal, near.expand(-1, 3), out.opacity.expand(-1, 3)]
        return torch.cat([c.view(size, size, 3) for c in columns], 1)

    @override
    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vsd"]["field"] = asdict(self.field_settings)  # for the stages that start from this one
