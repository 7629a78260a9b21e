"""The NeRF stage: particles are radiance fields, g(theta, c) is their volume rendering.

A step moves m particles; the batch's cameras are dealt out to them evenly. Pictures in the run folder: after every
validation a strip a particle (colour, normal, depth, opacity), at the end a turntable.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.object_stage import ObjectStage, field_optimizer, require_share
from scene.cameras import pixel_rays
from scene.hashgrid import HashGrid
from scene.radiance_field import Background, DenseGrid, Initialisation, RadianceField
from scene.volume_rendering import VolumeRender, VolumeRenderer


@dataclass(frozen=True)
class FieldSettings:
    """The radiance field of a particle and its renderer.

    encoding: "hash", ProlificDreamer's grid of 12.6 M parameters, or "dense", which a CPU renders several times faster;
    the others: see RadianceField and VolumeRenderer.
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


@dataclass(frozen=True)
class Regularisers:
    """Weights of the losses beside the guidance's; 0 switches one off.

    sparsity: mean sqrt(opacity^2 + 0.01), until opaque_from, as in threestudio; opaque: binary entropy of the opacity,
    from step opaque_from on; entropy: mean binary entropy (bits) of the samples' weights, as in the paper's code.
    """

    sparsity: float = 0.0
    opaque: float = 0.0
    opaque_from: int = 10_000
    entropy: float = 10.0


class NerfParticle(nn.Module):
    """One theta: field, background, and the occupancy grid of its own."""

    def __init__(self, settings: FieldSettings):
        super().__init__()
        self.settings = settings
        encoding = HashGrid() if settings.encoding == "hash" else DenseGrid()
        self.field = RadianceField(
            encoding, settings.bound, settings.hidden, settings.initialisation, settings.strength, settings.radius
        )
        self.background = Background()
        self.renderer = VolumeRenderer(
            settings.bound, settings.occupancy, settings.samples, max_samples=settings.max_samples
        )


class NerfStage(ObjectStage):
    """Distills radiance fields.

    particles: n; particles_per_step: m; field: of each; lr_encoding, lr_network, lr_background: Adam's, betas 0.9 and
    0.99, eps 1e-15; lr_decay: the factor to which the learning rates fall, exponentially, by the trainer's last step,
    which averages the noise of the guidance away; random_background: share of the views over one random plain colour,
    the others over the learned background; eval_background: grey of pictures, None for the learned background.
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
        seed: int = 0,
    ):
        super().__init__(particles, particles_per_step, seed)
        require_share("model.random_background", random_background)
        self.field_settings, self.losses = field or FieldSettings(), losses or Regularisers()
        self.lr_encoding, self.lr_network, self.lr_background = lr_encoding, lr_network, lr_background
        self.lr_decay = lr_decay
        self.random_background, self.eval_background = random_background, eval_background

    def configure_model(self) -> None:
        if hasattr(self, "particles"):
            return
        if self.trainer.training:
            self.require_guidance()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.particles = nn.ModuleList(NerfParticle(self.field_settings) for _ in range(self.order.n))
        self.say_backends(self.field_settings.encoding, meshes=False)

    def configure_optimizers(self) -> dict:
        return field_optimizer(self)

    def render(
        self, particle: NerfParticle, cameras: dict, generator: torch.Generator | None = None, normals: bool = False
    ) -> tuple[VolumeRender, Tensor]:
        """The render of B cameras, and its ray directions (B H W, 3). generator: shifts samples along their rays."""
        origins, directions = pixel_rays(cameras["camera_to_world"], cameras["fovy"], cameras["resolution"])
        jitter = None
        if generator is not None:
            jitter = torch.rand(len(origins), generator=generator, device=self.device)
        return particle.renderer(particle.field, origins, directions, jitter, normals), directions

    def training_step(self, batch: dict, _: int) -> Tensor:
        dealt, made = self.deal(batch)
        size, generator = batch["resolution"], self.generator()
        images, penalties = [], []
        for index, cameras in dealt:
            particle = self.particles[index]
            particle.renderer.update(made, particle.field, self.seed + index)
            out, directions = self.render(particle, cameras, generator)
            views = len(cameras["fovy"])
            behind = self.behind(particle.background, directions, views, generator)
            images.append((out.rgb + (1 - out.opacity) * behind).view(views, size, size, 3))
            penalties.append(self.penalty(out, made))
        loss = self.guide(torch.cat(images), batch, made)
        penalty = torch.stack(penalties).mean()
        self.log_dict({"train/guidance": loss.detach(), "train/penalty": penalty.detach()}, prog_bar=True)
        return loss + penalty

    def penalty(self, out: VolumeRender, step: int) -> Tensor:
        """The weighted sum of the regularisers at a particle's step."""
        weights = self.losses
        total = out.opacity.sum() * 0
        if weights.sparsity and step < weights.opaque_from:
            total = total + weights.sparsity * (out.opacity.square() + 0.01).sqrt().mean()
        if weights.opaque and step >= weights.opaque_from:
            total = total + weights.opaque * _entropy(out.opacity).mean()
        if weights.entropy and len(out.weights):
            total = total + weights.entropy * _entropy(out.weights).mean() / torch.log(torch.tensor(2.0))
        return total

    @torch.no_grad()
    def picture(self, index: int, cameras: dict) -> Tensor:
        """Colour, normal, depth and opacity side by side, (H, 4 W, 3) in [0, 1], of one camera."""
        particle, size = self.particles[index], cameras["resolution"]
        out, directions = self.render(particle, cameras, normals=True)
        behind = particle.background(directions) if self.eval_background is None else self.eval_background
        colour = out.rgb + (1 - out.opacity) * behind
        normal = 0.5 * (out.normal + 1) * out.opacity + (1 - out.opacity)
        distance = cameras["distance"].item()
        reach = 3**0.5 * particle.renderer.bound
        near = (distance + reach - out.depth / out.opacity.clamp(min=1e-6)) / (2 * reach) * out.opacity
        columns = [colour, normal, near.expand(-1, 3), out.opacity.expand(-1, 3)]
        return torch.cat([c.view(size, size, 3) for c in columns], 1)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vsd"]["field"] = asdict(self.field_settings)  # for the stages that go on from here


def _entropy(p: Tensor) -> Tensor:
    """Binary entropy in nats of probabilities."""
    p = p.clamp(1e-5, 1 - 1e-5)
    return -(p * p.log() + (1 - p) * (1 - p).log())
