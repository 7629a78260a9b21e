"""The texture stage: the surfaces stay as they are, and particles are the colours on them.

A particle is a field, of which the albedo on the surface is seen, and a background; both start as the NeRF stage left
them. The surface may also be a mesh from a file, whose colours start from scratch. When training ends, every particle
is exported as mesh-particleN.glb, and as OBJ with MTL and PNG.
"""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.checks import require_positive, require_range
from common.errors import InputError
from lightning_modules.field_training import Backgrounds, FieldRates
from lightning_modules.handover import first_surface, given_mesh, load_meshes, load_nerfs, read_given
from lightning_modules.nerf import FieldSettings, NerfParticle
from lightning_modules.object_stage import LARGEST_GRID, ObjectStage
from lightning_modules.textured_mesh import TexturedMesh, about
from scene.cameras import Cameras
from scene.export import write_glb, write_obj
from scene.iso_surface import judging_cameras, mesh_mask
from scene.mesh import Mesh, MeshError
from scene.mesh_files import GivenMesh, Up
from scene.mesh_rendering import MeshRender, render_mesh
from scene.solids import solid_mesh
from scene.texture import bake

HIGH = 0.7  # upper end of t / T below which no new colours appear
LARGEST_TEXTURE = 16384  # texels of a side
SEEN_BY = judging_cameras(2.3, 40.0), 64  # cameras and pixels by which a surface is judged before training


class TextureStage(ObjectStage):
    """Distills textures.

    Adam has betas 0.9 and 0.99, eps 1e-15.

    Args:
        nerf: Run of the NeRF stage whose colours are inherited: its folder, a folder of `dream`, or a checkpoint; None
            where `mesh` names a file.
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
        mesh: GLB, OBJ, PLY or STL file whose mesh is textured in the place of one of the geometry stage; the exported
            files have it where that file has it. Colours start from random ones.
        mesh_up: Axes of that file: "y" for y up with the front to +z, as in glTF; "z" for z up with the front to -y, as
            in Blender and most STL files.
        mesh_radius: Of the ball around the origin in which that mesh is put, world units, > 0.
        keep_uv: Whether the file's texture coordinates are kept, unless they overlap or repeat; else they are new.
        field: Of the colours on that mesh; otherwise they have the NeRF's.
        seed: Of random colours, the particles' order and everything drawn in training, >= 0.

    Raises:
        InputError: An option is impossible, a mesh is of no use, no camera sees a surface, or an export cannot be
            written.

    Source: ProlificDreamer, section 4.3 and its code.
    """

    def __init__(
        self,
        nerf: str | None = None,
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
        mesh: str | None = None,
        mesh_up: Up = "y",
        mesh_radius: float = 0.5,
        keep_uv: bool = True,
        field: FieldSettings | None = None,
        seed: int = 0,
    ):
        super().__init__(particles, particles_per_step, seed)
        self.backgrounds = Backgrounds(random_background, random_background_from, eval_background)
        self.rates = FieldRates(lr_encoding, lr_network, lr_background, lr_decay, weight_decay)
        require_range("model.resolution", resolution, 3, LARGEST_GRID)
        require_range("model.texture_size", texture_size, 16, LARGEST_TEXTURE)
        self.nerf, self.geometry, self.resolution, self.inherit = nerf, geometry, resolution, inherit
        self.texture_size = texture_size
        require_positive("model.mesh_radius", mesh_radius)
        if mesh is None and nerf is None:
            raise InputError("model.nerf: it is missing; name a run of the NeRF stage, or a mesh with model.mesh")
        if mesh is not None and (nerf is not None or geometry is not None):
            raise InputError("model.mesh: it takes the place of model.nerf and model.geometry; leave those out")
        self.mesh, self.mesh_up, self.mesh_radius, self.keep_uv = mesh, mesh_up, mesh_radius, keep_uv
        self.field_settings = field or FieldSettings()
        self.given: list[GivenMesh] = []  # of every particle
        self.mesh_words = ""  # about what was read

    @override
    def require_inputs(self, checkpoint: str | None) -> None:
        super().require_inputs(checkpoint)
        if self.mesh is None or self.given:
            return
        if checkpoint is not None:
            self.given = [given_mesh(checkpoint, i) for i in range(self.order.n)]
            return
        options = self.mesh_radius, self.mesh_up, self.keep_uv, self.texture_size
        given, self.mesh_words = read_given(self.mesh, *options)
        self.given = [given] * self.order.n

    @override
    def configure_model(self) -> None:
        if hasattr(self, "particles"):
            return
        if self.trainer.training:
            self.require_guidance()
        if self.mesh is not None:
            self.require_inputs(self.trainer.ckpt_path)
            if self.mesh_words:
                self.print_rank_zero(self.mesh_words)
            settings = [self.field_settings] * self.order.n
        else:
            nerfs = load_nerfs(self.nerf, self.order.n)
            settings = [nerf.settings for nerf in nerfs]
            self.field_settings = settings[0]
        self.print_backends(settings[0].encoding, meshes=True, padded=settings[0].padded)
        if self.mesh is not None:
            meshes = [given.mesh for given in self.given]
        elif self.geometry is None:
            starts = [first_surface(nerf, i, self.resolution, *SEEN_BY) for i, nerf in enumerate(nerfs)]
            meshes = [solid_mesh(start.surface) for start in starts]
        else:
            meshes = load_meshes(self.geometry, self.order.n)
        for i, mesh in enumerate(meshes):
            if not mesh_mask(mesh, *SEEN_BY).any():
                key, fix = ("geometry", "train the geometry anew") if self.mesh is None else ("mesh", "name another")
                raise InputError(f"model.{key}: no camera sees a face of particle {i}; {fix}")
        if self.mesh is not None or not self.inherit:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the same on every device
                torch.manual_seed(self.seed)
                nerfs = [NerfParticle(one) for one in settings]
        given = self.given or [None] * self.order.n
        self.particles = nn.ModuleList(TexturedMesh(*parts) for parts in zip(meshes, nerfs, given, strict=True))

    @override
    def configure_optimizers(self) -> dict:
        return self.rates.optimizer(self.particles, self.trainer.estimated_stepping_batches)

    def render(self, index: int, cameras: Cameras) -> MeshRender:
        """Renders a particle.

        Args:
            index: Of the particle.
            cameras: B cameras of S x S pixels.
        """
        particle = self.particles[index]
        mesh, caster = particle.mesh()
        return render_mesh(mesh, cameras, particle.colour, caster)

    @override
    def training_step(self, batch: Cameras, _: int) -> Tensor:
        assigned, particle_step = self.assign_cameras(batch)
        generator = self.generator()
        images = []
        for index, cameras in assigned:
            out = self.render(index, cameras)
            directions = out.directions.reshape(-1, 3)  # (B S^2, 3)
            learned = self.particles[index].background
            background = self.backgrounds.draw(learned, directions, len(cameras), generator, particle_step)
            images.append(out.colour + (1 - out.coverage) * background.view(out.colour.shape))
        loss = self.guide(torch.cat(images), batch, particle_step)
        self.log("train/guidance", loss.detach(), prog_bar=True)
        return loss

    @override
    @torch.no_grad()
    def picture(self, index: int, cameras: Cameras) -> Tensor:
        """Colour and normal side by side."""
        out = self.render(index, cameras)
        return out.side_by_side(self.backgrounds.of_picture(self.particles[index].background, out.directions[0]))

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        high = max((guidance.timesteps.range(0)[1] for guidance in self.guidances), default=1.0)
        if (self.mesh is not None or not self.inherit) and high < HIGH:
            self.print_rank_zero(
                f"warning: timesteps.high: {high:g} is too low for colours that start from random ones, which stay "
                "plain; 0.98 is usual, see configs/mesh.yaml and configs/toybox/mesh.yaml"
            )

    @override
    def on_fit_end(self) -> None:
        for i in self.order.rendered:
            self.export(i)
        self.trainer.strategy.barrier()  # the first rank shows what all have written
        for i in range(self.order.n):
            self.show(f"mesh/particle{i}", f"mesh-particle{i}.glb")

    def export(self, index: int) -> None:
        """Writes mesh-particleN.glb, .obj, .mtl and .png into the run folder.

        Args:
            index: N, of the particle.

        Raises:
            InputError: A file cannot be written.
        """
        particle = self.particles[index]
        try:
            atlas = particle.atlas(self.texture_size)
            image = bake(particle.vertices, atlas, particle.colour)
            path = self.run_folder / f"mesh-particle{index}.glb"
            closed = Mesh(particle.vertices, particle.faces).is_watertight
            prompt = self.guidances[0].prompts.prompt if self.guidances else ""
            words = about(prompt, self.seed, index, self.order.n, closed)
            files = particle.vertices, atlas, image, particle.placement, words
            write_glb(path, *files)
            write_obj(path.with_suffix(".obj"), *files)
        except (OSError, MeshError) as error:
            raise InputError(f"export of particle {index}: {error}; the checkpoint is kept") from error

    @override
    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vsd"]["field"] = asdict(self.field_settings)  # for `vsd export`
