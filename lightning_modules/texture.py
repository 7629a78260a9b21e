"""The texture stage: the surfaces stay as they are, and particles are the colours on them.

A particle is a field, of which the albedo on the surface is seen, and a background; both start as the NeRF stage left
them. When training ends, every particle is exported as mesh-particleN.glb, and as OBJ with MTL and PNG.
"""

import torch
from torch import Tensor, nn

from common.errors import InputError
from lightning_modules.handover import first_surface, load_meshes, load_nerfs
from lightning_modules.nerf import NerfParticle
from lightning_modules.object_stage import ObjectStage, field_optimizer, require_share
from scene.export import write_glb, write_obj
from scene.iso_surface import judging_cameras, mesh_mask
from scene.mesh import Mesh, MeshError
from scene.mesh_rendering import MeshRender, render_mesh
from scene.rasterizer import RayCaster
from scene.solids import solid_mesh
from scene.texture import bake, unwrap

SEEN_BY = judging_cameras(2.3, 40.0), 64  # cameras and pixels by which a surface is judged before training


class TexturedMesh(nn.Module):
    """One theta: the NeRF's field and background, seen on a fixed mesh."""

    def __init__(self, mesh: Mesh, nerf: NerfParticle):
        super().__init__()
        self.register_buffer("vertices", mesh.vertices)
        self.register_buffer("faces", mesh.faces)
        self.field, self.background = nerf.field.requires_grad_(True), nerf.background.requires_grad_(True)
        self.seen: tuple[Mesh, RayCaster] | None = None

    def mesh(self) -> tuple[Mesh, RayCaster]:
        """The mesh and its caster, made once for the device that it is on."""
        if self.seen is None or self.seen[0].vertices.device != self.vertices.device:
            self.seen = Mesh(self.vertices, self.faces), RayCaster(self.vertices, self.faces)
        return self.seen

    def colour(self, points: Tensor) -> Tensor:
        """Albedo (N, 3) at points (N, 3)."""
        return self.field(points)[1]


class TextureStage(ObjectStage):
    """Distills textures.

    nerf: run of the NeRF stage whose colours are inherited; geometry: run of the geometry stage whose surfaces are
    textured, None for the surfaces that it would start from, of `resolution` cells; particles: n, as many as both have;
    particles_per_step: m; inherit: start from the NeRF's colours, not from random ones; lr_encoding, lr_network,
    lr_background: Adam's, betas 0.9 and 0.99, eps 1e-15; lr_decay: the factor to which the learning rates fall by the
    trainer's last step; random_background: share of the views over one random plain colour, the others over the learned
    background; eval_background: grey of pictures, None for the learned background; texture_size: texels of the exported
    image's side. InputError for a surface that no camera sees, and where an export cannot be made.
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
        texture_size: int = 1024,
        seed: int = 0,
    ):
        super().__init__(particles, particles_per_step, seed)
        require_share("model.random_background", random_background)
        if texture_size < 16:
            raise InputError(f"model.texture_size: {texture_size} texels hold no texture; at least 16 are needed")
        self.nerf, self.geometry, self.resolution, self.inherit = nerf, geometry, resolution, inherit
        self.lr_encoding, self.lr_network, self.lr_background = lr_encoding, lr_network, lr_background
        self.lr_decay, self.random_background, self.eval_background = lr_decay, random_background, eval_background
        self.texture_size = texture_size

    def configure_model(self) -> None:
        if hasattr(self, "particles"):
            return
        if self.trainer.training:
            self.require_guidance()
        nerfs = load_nerfs(self.nerf, self.order.n)
        self.say_backends(nerfs[0].settings.encoding, meshes=True)
        if self.geometry is None:
            starts = [first_surface(nerf, i, self.resolution, *SEEN_BY) for i, nerf in enumerate(nerfs)]
            meshes = [solid_mesh(start.surface) for start in starts]
        else:
            meshes = load_meshes(self.geometry, self.order.n)
        for i, mesh in enumerate(meshes):
            if not mesh_mask(mesh, *SEEN_BY).any():
                raise InputError(f"model.geometry: no camera sees a face of particle {i}; train the geometry anew")
        if not self.inherit:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                nerfs = [NerfParticle(nerf.settings) for nerf in nerfs]
        self.particles = nn.ModuleList(TexturedMesh(*pair) for pair in zip(meshes, nerfs, strict=True))

    def configure_optimizers(self) -> dict:
        return field_optimizer(self)

    def render(self, index: int, cameras: dict) -> MeshRender:
        """A particle seen by B cameras."""
        particle = self.particles[index]
        mesh, caster = particle.mesh()
        return render_mesh(
            mesh, cameras["camera_to_world"], cameras["fovy"], cameras["resolution"], particle.colour, caster
        )

    def training_step(self, batch: dict, _: int) -> Tensor:
        dealt, made = self.deal(batch)
        generator = self.generator()
        images = []
        for index, cameras in dealt:
            out = self.render(index, cameras)
            background = self.particles[index].background
            behind = self.behind(background, out.directions.reshape(-1, 3), len(out.colour), generator)
            images.append(out.colour + (1 - out.coverage) * behind.view(out.colour.shape))
        loss = self.guide(torch.cat(images), batch, made)
        self.log("train/guidance", loss.detach(), prog_bar=True)
        return loss

    @torch.no_grad()
    def picture(self, index: int, cameras: dict) -> Tensor:
        """Colour and normal side by side, (S, 2 S, 3) in [0, 1], of one camera."""
        out = self.render(index, cameras)
        empty = (1 - out.coverage)[0]
        behind = self.eval_background
        if behind is None:
            behind = self.particles[index].background(out.directions[0])
        return torch.cat([out.colour[0] + empty * behind, 0.5 * (out.normal + out.coverage)[0] + empty], 1)

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero:
            for i in range(self.order.n):
                self.export(i)

    def export(self, index: int) -> None:
        """Writes mesh-particleN.glb, .obj, .mtl and .png into the run folder."""
        particle = self.particles[index]
        try:
            atlas = unwrap(particle.vertices, particle.faces, self.texture_size)
            image = bake(particle.vertices, atlas, particle.colour)
            path = self.run_folder / f"mesh-particle{index}.glb"
            write_glb(path, particle.vertices, atlas, image)
            write_obj(path.with_suffix(".obj"), particle.vertices, atlas, image)
        except (OSError, MeshError) as error:
            raise InputError(f"export of particle {index}: {error}; the checkpoint is kept") from error
