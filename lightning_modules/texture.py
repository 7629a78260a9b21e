"""The texture stage: the surfaces stay as they are, and particles are the colours on them.

A particle is a field, of which the albedo on the surface is seen, and a background; both start as the NeRF stage left
them. When training ends, every particle is exported as mesh-particleN.glb, and as OBJ with MTL and PNG.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.checks import require_range
from common.errors import InputError
from lightning_modules.handover import first_surface, load_meshes, load_nerfs
from lightning_modules.nerf import NerfParticle
from lightning_modules.object_stage import LARGEST_GRID, ObjectStage, field_optimizer, require_background, require_rates
from scene.cameras import Cameras
from scene.export import write_glb, write_obj
from scene.iso_surface import judging_cameras, mesh_mask
from scene.mesh import Mesh, MeshError
from scene.mesh_rendering import MeshRender, render_mesh
from scene.rasterizer import RayCaster
from scene.solids import solid_mesh
from scene.texture import bake, unwrap

LARGEST_TEXTURE = 16384  # texels of a side
SEEN_BY = judging_cameras(2.3, 40.0), 64  # cameras and pixels by which a surface is judged before training


class TexturedMesh(nn.Module):
    """One theta: the NeRF's field and background, seen on a fixed mesh.

    Args:
        mesh: The surface, which stays as it is.
        nerf: Particle of the NeRF stage, whose field and background are trained.
    """

    def __init__(self, mesh: Mesh, nerf: NerfParticle):
        super().__init__()
        self.register_buffer("vertices", mesh.vertices)
        self.register_buffer("faces", mesh.faces)
        self.field, self.background = nerf.field.requires_grad_(True), nerf.background.requires_grad_(True)
        self.seen: tuple[Mesh, RayCaster] | None = None

    def mesh(self) -> tuple[Mesh, RayCaster]:
        """The mesh and its ray caster, built once per device."""
        if self.seen is None or self.seen[0].vertices.device != self.vertices.device:
            self.seen = Mesh(self.vertices, self.faces), RayCaster(self.vertices, self.faces)
        return self.seen

    def colour(self, points: Tensor) -> Tensor:
        """Albedo on the surface.

        Args:
            points: (N, 3), world units.

        Returns:
            (N, 3) in [0, 1].
        """
        return self.field(points)[1]


class TextureStage(ObjectStage):
    """Distills textures.

    Adam has betas 0.9 and 0.99, eps 1e-15.

    Args:
        nerf: Run of the NeRF stage whose colours are inherited: its folder, a folder of `dream`, or a checkpoint.
        geometry: Run of the geometry stage whose surfaces are textured, named likewise; None for the surfaces from
            which that stage would start.
        particles: Number of particles, n >= 1, as many as both runs have.
        particles_per_step: Particles that a step moves, m in 1 ... n.
        resolution: Cells along an axis of the tetrahedral grid, where there is no run of the geometry stage.
        inherit: Whether to start from the NeRF's colours, else from random ones.
        lr_encoding: Learning rate of the fields' encodings.
        lr_network: Learning rate of the fields' networks.
        lr_background: Learning rate of the learned backgrounds.
        lr_decay: Factor in (0, 1] to which the learning rates fall, exponentially, by the trainer's last step.
        random_background: Probability in [0, 1] that a view has one random plain colour behind the object, else the
            learned background.
        eval_background: Grey in [0, 1] of pictures, None for the learned background.
        random_background_from: The particle's step from which on random_background holds; until then all views have
            the learned background.
        weight_decay: AdamW's, >= 0.
        texture_size: Texels of the exported image's side, in 16 ... 16384.
        seed: Of random colours, the particles' order and everything drawn in training, >= 0.

    Raises:
        InputError: An option is impossible, no camera sees a surface, or an export cannot be written.

    Source: ProlificDreamer, section 4.3 and its code.
    """

    def __init__(
        self,
        nerf: str,
        geometry: str | None = None,
        particles: int = 1,
        particles_per_step: int = 1,
        resolution: int = 128,
        inherit: bool = True,
        lr_encoding: float = 1e-2,
        lr_network: float = 1e-3,
        lr_background: float = 1e-3,
        lr_decay: float = 1.0,
        random_background: float = 0.5,
        eval_background: float | None = None,
        random_background_from: int = 0,
        weight_decay: float = 0.0,
        texture_size: int = 1024,
        seed: int = 0,
    ):
        super().__init__(particles, particles_per_step, seed)
        require_background(random_background, eval_background)
        require_rates(lr_encoding=lr_encoding, lr_network=lr_network, lr_background=lr_background)
        require_range("model.resolution", resolution, 3, LARGEST_GRID)
        require_range("model.texture_size", texture_size, 16, LARGEST_TEXTURE)
        self.nerf, self.geometry, self.resolution, self.inherit = nerf, geometry, resolution, inherit
        self.lr_encoding, self.lr_network, self.lr_background = lr_encoding, lr_network, lr_background
        self.lr_decay, self.weight_decay, self.eval_background = lr_decay, weight_decay, eval_background
        self.random_background, self.random_background_from = random_background, random_background_from
        self.texture_size = texture_size

    @override
    def configure_model(self) -> None:
        if hasattr(self, "particles"):
            return
        if self.trainer.training:
            self.require_guidance()
        nerfs = load_nerfs(self.nerf, self.order.n)
        self.print_backends(nerfs[0].settings.encoding, meshes=True, padded=nerfs[0].settings.padded)
        if self.geometry is None:
            starts = [first_surface(nerf, i, self.resolution, *SEEN_BY) for i, nerf in enumerate(nerfs)]
            meshes = [solid_mesh(start.surface) for start in starts]
        else:
            meshes = load_meshes(self.geometry, self.order.n)
        for i, mesh in enumerate(meshes):
            if not mesh_mask(mesh, *SEEN_BY).any():
                raise InputError(f"model.geometry: no camera sees a face of particle {i}; train the geometry anew")
        if not self.inherit:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the same on every device
                torch.manual_seed(self.seed)
                nerfs = [NerfParticle(nerf.settings) for nerf in nerfs]
        self.particles = nn.ModuleList(TexturedMesh(*pair) for pair in zip(meshes, nerfs, strict=True))

    @override
    def configure_optimizers(self) -> dict:
        return field_optimizer(self)

    def render(self, index: int, cameras: Cameras) -> MeshRender:
        """Renders a particle.

        Args:
            index: Of the particle.
            cameras: B cameras of S x S pixels.
        """
        particle = self.particles[index]
        mesh, caster = particle.mesh()
        return render_mesh(mesh, cameras.camera_to_world, cameras.fovy, cameras.resolution, particle.colour, caster)

    @override
    def training_step(self, batch: Cameras, _: int) -> Tensor:
        assigned, particle_step = self.assign_cameras(batch)
        generator = self.generator()
        images = []
        for index, cameras in assigned:
            out = self.render(index, cameras)
            directions = out.directions.reshape(-1, 3)  # (B S^2, 3)
            learned = self.particles[index].background
            background = self.background_colors(learned, directions, len(cameras), generator, particle_step)
            images.append(out.colour + (1 - out.coverage) * background.view(out.colour.shape))
        loss = self.guide(torch.cat(images), batch, particle_step)
        self.log("train/guidance", loss.detach(), prog_bar=True)
        return loss

    @torch.no_grad()
    def picture(self, index: int, cameras: Cameras) -> Tensor:
        """Colour and normal side by side, without gradients.

        Args:
            index: Of the particle.
            cameras: One camera, of S x S pixels.

        Returns:
            (S, 2 S, 3) in [0, 1].
        """
        out = self.render(index, cameras)
        empty = (1 - out.coverage)[0]  # (S, S, 1)
        background = self.eval_background
        if background is None:
            background = self.particles[index].background(out.directions[0])
        return torch.cat([out.colour[0] + empty * background, 0.5 * (out.normal + out.coverage)[0] + empty], 1)

    @override
    def on_fit_end(self) -> None:
        for i in self.order.rendered:
            self.export(i)

    def export(self, index: int) -> None:
        """Writes mesh-particleN.glb, .obj, .mtl and .png into the run folder.

        Args:
            index: N, of the particle.

        Raises:
            InputError: A file cannot be written.
        """
        particle = self.particles[index]
        try:
            atlas = unwrap(particle.vertices, particle.faces, self.texture_size)
            image = bake(particle.vertices, atlas, particle.colour)
            path = self.run_folder / f"mesh-particle{index}.glb"
            write_glb(path, particle.vertices, atlas, image)
            write_obj(path.with_suffix(".obj"), particle.vertices, atlas, image)
        except (OSError, MeshError) as error:
            raise InputError(f"export of particle {index}: {error}; the checkpoint is kept") from error
