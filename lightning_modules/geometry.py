"""The geometry stage: particles are DMTet surfaces, which start from the NeRF stage's particles.

The guidance sees normal maps, as in the paper, or the colours that the NeRF has on the surface, for a prior that has
never seen a normal map. Every particle keeps to its own NeRF.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.checks import require_positive, require_range
from common.errors import InputError
from common.pixels import to_uint8
from lightning_modules.handover import first_surface, load_nerfs
from lightning_modules.nerf import NerfParticle
from lightning_modules.object_stage import LARGEST_GRID, ObjectStage
from lightning_modules.surface_losses import SurfaceLosses
from scene.cameras import Cameras
from scene.iso_surface import field_mask, intersection_over_union, judging_cameras, mesh_mask
from scene.mesh import Mesh
from scene.mesh_rendering import MeshRender, render_mesh
from scene.solids import solid_mesh
from scene.tetrahedra import DMTet


class GeometryStage(ObjectStage):
    """Distills surfaces.

    Args:
        nerf: Run of the NeRF stage to start from: its folder, a folder of `dream`, or a checkpoint.
        particles: Number of particles, n >= 1, as many as the NeRF's run has.
        particles_per_step: Particles that a step moves, m in 1 ... n.
        resolution: Cells of the tetrahedral grid along an axis, >= 3.
        guided: What the guidance sees: "normal", the normal map, or "colour", the NeRF's colours on the surface.
        losses: Weights of the other losses.
        lr: Learning rate of Adam, whose betas are 0.9 and 0.99 and eps 1e-15.
        eval_background: Grey in [0, 1] of pictures.
        start_distance: Distance of the cameras by which the density threshold is chosen, world units.
        start_fovy: Vertical field of view of these cameras, degrees.
        start_size: Pixels of the side of these cameras' silhouettes.
        random_background: Probability in [0, 1] that a view has a plain colour behind the surface, else the background
            that the NeRF stage has learned, which stays as it is.
        random_background_from: The particle's step from which on random_background holds; until then all views have
            the learned background.
        plain_background: Grey in [0, 1] of the plain colours, None for a random colour per view.
        seed: Of the particles' order and everything drawn in training, >= 0.

    Raises:
        InputError: An option is impossible, the NeRF has no surface, or a surface vanishes during training.

    Source: ProlificDreamer, section 4.3 and its code.
    """

    def __init__(
        self,
        nerf: str,
        particles: int = 1,
        particles_per_step: int = 1,
        resolution: int = 128,
        guided: Literal["normal", "colour"] = "normal",
        losses: SurfaceLosses | None = None,
        lr: float = 5e-3,
        eval_background: float = 1.0,
        start_distance: float = 2.3,
        start_fovy: float = 40.0,
        start_size: int = 64,
        random_background: float = 1.0,
        random_background_from: int = 0,
        plain_background: float | None = None,
        seed: int = 0,
    ):
        super().__init__(particles, particles_per_step, seed)
        require_range("model.resolution", resolution, 3, LARGEST_GRID)
        for key, value in (("eval", eval_background), ("random", random_background), ("plain", plain_background)):
            require_range(f"model.{key}_background", value, 0, 1)
        require_range("model.random_background_from", random_background_from, 0)
        require_positive("model.start_distance", start_distance)
        if not 0 < start_fovy < 180:
            raise InputError(f"model.start_fovy: {start_fovy:g} is not inside (0, 180) degrees")
        require_range("model.start_size", start_size, 1, 4096)
        require_range("model.lr", lr, 0)
        self.random_background, self.random_background_from = random_background, random_background_from
        self.plain_background = plain_background
        self.nerf, self.resolution, self.guided, self.losses = nerf, resolution, guided, losses or SurfaceLosses()
        self.lr, self.eval_background = lr, eval_background
        self.start = judging_cameras(start_distance, start_fovy), start_size

    @override
    def configure_model(self) -> None:
        if hasattr(self, "particles"):
            return
        if self.trainer.training:
            self.require_guidance()
        device = self.trainer.strategy.root_device
        # In a list, so that Lightning neither saves nor trains what the particles start from.
        self.nerfs: list[NerfParticle] = [nerf.to(device) for nerf in load_nerfs(self.nerf, self.order.n)]
        settings = self.nerfs[0].settings
        self.print_backends(settings.encoding, meshes=True, padded=settings.padded)
        if self.trainer.ckpt_path is None:
            starts = [first_surface(nerf, i, self.resolution, *self.start) for i, nerf in enumerate(self.nerfs)]
            self.particles = nn.ModuleList(start.surface for start in starts)
            for i, start in enumerate(starts):
                self.print_rank_zero(
                    f"particle {i}: density threshold {start.threshold:g}, silhouette IoU {start.iou:.3f}"
                )
        else:
            self.particles = nn.ModuleList(DMTet(self.resolution) for _ in range(self.order.n))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.particles.parameters(), self.lr, betas=(0.9, 0.99), eps=1e-15)

    def extract(self, index: int) -> Mesh:
        """The surface of a particle now.

        Args:
            index: Of the particle.

        Raises:
            InputError: Nothing is left of it.
        """
        mesh = self.particles[index].extract()
        if mesh.is_empty or not bool(torch.isfinite(mesh.vertices).all()):
            raise InputError(
                f"model: nothing is left of the surface of particle {index} after {self.global_step} steps; lower "
                "model.lr or the guidance's scale, or raise model.losses.opacity; the last checkpoint is untouched"
            )
        return mesh

    def render(self, index: int, cameras: Cameras, mesh: Mesh | None = None) -> MeshRender:
        """Renders a particle in the colours of its NeRF.

        Args:
            index: Of the particle.
            cameras: B cameras of S x S pixels.
            mesh: What `extract` gave, None to extract it here.
        """
        field, mesh = self.nerfs[index].field, mesh or self.extract(index)
        return render_mesh(mesh, cameras, lambda points: field(points)[1])

    @override
    def training_step(self, batch: Cameras, _: int) -> Tensor:
        assigned, particle_step = self.assign_cameras(batch)
        generator = self.generator()
        images, penalties = [], []
        for index, cameras in assigned:
            mesh = self.extract(index)
            out = self.render(index, cameras, mesh)
            seen = out.colour if self.guided == "colour" else 0.5 * (out.normal + out.coverage)
            images.append(seen + (1 - out.coverage) * self.backgrounds(index, out, particle_step, generator))
            opacity = self.opacity(index, cameras) if self.losses.opacity else None
            penalties.append(self.losses.penalty(mesh, out.coverage, opacity))
        loss = self.guide(torch.cat(images), batch, particle_step)
        penalty = torch.stack(penalties).mean()
        self.log_dict({"train/guidance": loss.detach(), "train/penalty": penalty.detach()}, prog_bar=True)
        return loss + penalty

    def backgrounds(self, index: int, out: MeshRender, step: int, generator: torch.Generator) -> Tensor:
        """Draws the colours behind a surface: one plain colour per view, or the learned background.

        Args:
            index: Of the particle.
            out: Its render, of B views.
            step: Steps that the particle has made.
            generator: Of the random numbers.

        Returns:
            (B, 1, 1, 3), or (B, S, S, 3) where a view may have the learned background; in [0, 1].
        """
        views = len(out.coverage)
        plain = torch.rand(views, 1, 1, 3, generator=generator, device=self.device)
        if self.plain_background is not None:
            plain = torch.full_like(plain, self.plain_background)
        fraction = self.random_background if step >= self.random_background_from else 0.0
        if fraction == 1:
            return plain
        with torch.no_grad():
            learned = self.nerfs[index].background(out.directions.reshape(-1, 3)).view(out.directions.shape)
        use_plain = torch.rand(views, 1, 1, 1, generator=generator, device=self.device) < fraction
        return torch.where(use_plain, plain, learned)

    @torch.no_grad()
    def opacity(self, index: int, cameras: Cameras) -> Tensor:
        """The opacity of a particle's NeRF.

        Args:
            index: Of the particle.
            cameras: B cameras of S x S pixels.

        Returns:
            (B, S, S, 1) in [0, 1].
        """
        nerf, size = self.nerfs[index], cameras.resolution
        return nerf.renderer(nerf.field, *cameras.rays()).opacity.view(len(cameras), size, size, 1)

    @override
    @torch.no_grad()
    def picture(self, index: int, cameras: Cameras) -> Tensor:
        """Colour and normal side by side."""
        return self.render(index, cameras).side_by_side(self.eval_background, self.eval_background)

    @override
    def validation_step(self, batch: Cameras, _: int) -> None:
        ious = torch.zeros(self.order.n, device=self.device)
        for i, strip in self.strips.items():
            out = self.render(i, batch)
            strip.append(to_uint8(out.side_by_side(self.eval_background, self.eval_background)))
            ious[i] = intersection_over_union(out.coverage > 0.5, self.opacity(i, batch) > 0.5)
        ious = self.trainer.strategy.reduce(ious, reduce_op="sum")  # each rank has its own particles
        self.log_validation({f"val/iou{i}": iou for i, iou in enumerate(ious)})

    @override
    def on_fit_end(self) -> None:
        for i in self.order.rendered:
            mesh, nerf, (orbit, size) = solid_mesh(self.particles[i]), self.nerfs[i], self.start
            iou = intersection_over_union(
                mesh_mask(mesh, orbit, size), field_mask(nerf.field, nerf.renderer, orbit, size)
            )
            count, closed = mesh.components()[0], "watertight" if mesh.is_watertight else "not watertight"
            words = f"{len(mesh.faces)} faces, bodies: {count}, {closed}, silhouette IoU {iou:.3f}"
            print(f"particle {i}: {words}", flush=True)

    @override
    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vsd"]["resolution"] = self.resolution  # for the stage that starts from this one
