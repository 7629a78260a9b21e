"""The 2D stage: particles are pictures, g(theta) = theta. The smallest experiment with a guidance.

Every guidance among the trainer's callbacks gets particles of its own, so that one run compares, say, VSD with SDS at
equal steps. At the end the run folder holds image.png: one row of particles per guidance, and one of ancestral samples
of the first guidance's prior, all of its size.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from common.checks import require_range
from lightning_modules.stage import Stage
from vsd.encoding import resized
from vsd.views import View


class ImageStage(Stage):
    """Distills pictures.

    Args:
        particles: n, per guidance.
        particles_per_step: m, how many of them a step moves.
        space: What a particle is: "latents" of the prior, or "pixels".
        azimuth: Degrees, of the view that all pictures show.
        elevation: Degrees, of the same view.
        lr: Adam's learning rate.
        lr_end: Fraction of `lr` that is left at the last step, to which it falls linearly, in [0, 1]; 1 keeps it. Below
            1 the particles lose the noise of their steps (docs/claims).
        ancestral_scale: Guidance scale of the ancestral samples, which use 50 steps of the pipeline's own scheduler.
        seed: Of the particles' start and their order.

    Source: ProlificDreamer, appendix on 2D experiments; the community's settings, Adam with 0.03.
    """

    def __init__(
        self,
        particles: int = 8,
        particles_per_step: int = 4,
        space: Literal["latents", "pixels"] = "latents",
        azimuth: float = 0.0,
        elevation: float = 15.0,
        lr: float = 0.03,
        lr_end: float = 1.0,
        ancestral_scale: float = 3.0,
        seed: int = 0,
    ):
        super().__init__(particles, particles_per_step, seed)
        for name, value in (("lr", lr), ("ancestral_scale", ancestral_scale)):
            require_range(f"model.{name}", value, 0)
        require_range("model.lr_end", lr_end, 0, 1)
        require_range("model.elevation", elevation, -90, 90)
        self.space, self.azimuth, self.elevation = space, azimuth, elevation
        self.lr, self.lr_end, self.ancestral_scale = lr, lr_end, ancestral_scale

    @override
    def configure_model(self) -> None:
        if hasattr(self, "pictures"):
            return
        self.require_guidance()
        generator = torch.Generator().manual_seed(self.seed)
        self.pictures = nn.ModuleList()
        for guidance in self.guidances:
            shape = guidance.latent_shape if self.space == "latents" else (3, guidance.image_size, guidance.image_size)
            # Lightning builds stages on their device; the start is the same on each.
            start = [torch.randn(shape, generator=generator, device="cpu") * 0.5 for _ in range(self.order.n)]
            self.pictures.append(nn.ParameterList(start))

    @override
    def particle_tensors(self, index: int) -> list[Tensor]:
        return [pictures[index] for pictures in self.pictures]

    @override
    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.pictures.parameters(), self.lr)
        total = max(self.trainer.max_steps, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - (1 - self.lr_end) * step / total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(self.trainer.max_steps))

    @override
    def training_step(self, batch: Tensor, _: int) -> Tensor:
        chosen, particle_step = self.order(self.global_step)
        count = len(chosen)
        view = self.view(count)
        losses = []
        for guidance, pictures in zip(self.guidances, self.pictures, strict=True):
            images = torch.stack([pictures[i] for i in chosen])
            losses.append(guidance.particle_loss(images, view, torch.full((count,), particle_step)))
            self.log(f"train/{guidance.label}_loss", losses[-1], prog_bar=True)
        return torch.stack(losses).sum()

    def images(self, which: int) -> Tensor:
        """Pictures (n, 3, H, W) in [0, 1] of the particles of guidance number `which`."""
        pictures = torch.stack(list(self.pictures[which])).detach()
        if self.space == "latents":
            # When training has ended, Lightning has moved the particles to the CPU.
            pictures = pictures.to(self.guidances[which].core.prior.device)
            pictures = self.guidances[which].decode(pictures)
        return ((pictures + 1) / 2).clamp(0, 1).float().cpu()

    @override
    def on_fit_end(self) -> None:
        # Not when training ends: a run that was killed after its last step writes the picture when it is resumed.
        if not self.trainer.is_global_zero:
            return
        ancestral = self.guidances[0].sample(self.order.n, self.view(1), self.ancestral_scale)
        size = self.guidances[0].image_size
        rows = [*(resized(self.images(i), size) for i in range(len(self.guidances))), ancestral]
        grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        self.keep_picture("image", grid.permute(1, 2, 0), "image.png")

    def view(self, count: int) -> View:
        """The view of `count` pictures: no camera is no information, the prompt's words come from the fixed view."""
        return View(
            torch.zeros(count, 4, 4, device=self.device),
            torch.full((count,), self.azimuth),
            torch.full((count,), self.elevation),
        )
