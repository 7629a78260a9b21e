"""A particle of the texture stage, a mesh with a field of colours, and what exported files say of a particle."""

import torch
from torch import Tensor, nn

from lightning_modules.nerf import NerfParticle
from scene.export import About, Placement
from scene.mesh import Mesh
from scene.mesh_files import GivenMesh
from scene.rasterizer import RayCaster
from scene.texture import Atlas, unwrap


class TexturedMesh(nn.Module):
    """One theta: the NeRF's field and background, seen on a fixed mesh.

    Args:
        mesh: The surface, which stays as it is.
        nerf: Particle of the NeRF stage, whose field and background are trained.
        given: The file's mesh that it is, None for one of the geometry stage.
    """

    def __init__(self, mesh: Mesh, nerf: NerfParticle, given: GivenMesh | None = None):
        super().__init__()
        self.register_buffer("vertices", mesh.vertices)
        self.register_buffer("faces", mesh.faces)
        self.field, self.background = nerf.field.requires_grad_(True), nerf.background.requires_grad_(True)
        if given is not None:  # in the checkpoint, so that a run resumes without the file
            self.register_buffer("to_file", given.to_file)
            self.register_buffer("z_up", torch.tensor(given.up == "z"))
        self.has_atlas = given is not None and given.uv is not None
        if self.has_atlas:
            for name in ("uv", "corners", "source"):
                self.register_buffer(name, getattr(given, name))
        self.seen: tuple[Mesh, RayCaster] | None = None

    def mesh(self) -> tuple[Mesh, RayCaster]:
        """The mesh and its ray caster, built once per device."""
        if self.seen is None or self.seen[0].vertices.device != self.vertices.device:
            self.seen = Mesh(self.vertices, self.faces), RayCaster(self.vertices, self.faces)
        return self.seen

    @property
    def placement(self) -> Placement:
        """Where exported files have the mesh."""
        if not hasattr(self, "to_file"):
            return Placement()
        return Placement(self.to_file.cpu().numpy(), "z" if self.z_up else "y")

    def atlas(self, size: int) -> Atlas:
        """The texture coordinates of the mesh, those of its file or new ones.

        Args:
            size: Texels of the image's side.

        Raises:
            MeshError: Its charts do not fit the image.
        """
        if self.has_atlas:
            return Atlas(self.uv, self.corners, self.source, size)
        return unwrap(self.vertices, self.faces, size)

    def colour(self, points: Tensor) -> Tensor:
        """Albedo on the surface.

        Args:
            points: (N, 3), world units.

        Returns:
            (N, 3) in [0, 1].
        """
        return self.field(points)[1]


def about(prompt: str, seed: int, index: int, count: int, closed: bool) -> About:
    """What exported files say of a particle.

    Args:
        prompt: Of its run.
        seed: Of its run.
        index: Of the particle.
        count: Number of particles, n.
        closed: Whether its mesh is.
    """
    words = {"prompt": prompt, "particle": index, "particles": count, "seed": seed, "unit": "metre"}
    return About((f"{prompt} {index}" if count > 1 else prompt) or None, words, double_sided=not closed)
