"""What one stage takes from another: the particles in the checkpoint of a run.

A run is named by its folder, RUN, by a folder of `dream` (whose stage of that kind is meant), or by a checkpoint.
"""

from pathlib import Path

from common.errors import InputError
from lightning_modules.nerf import FieldSettings, NerfParticle
from lightning_modules.run.checkpoints import read_checkpoint
from lightning_modules.run.folder import DREAM, LAST
from scene.cameras import Orbit
from scene.iso_surface import NoSurface, Start, from_field
from scene.mesh import Mesh
from scene.mesh_files import GivenMesh
from scene.solids import solid_mesh
from scene.tetrahedra import DMTet


def _load(run: str, key: str, stage: str, word: str, count: int) -> dict:
    """The checkpoint of a run that must have `count` particles; word: of its stage in a folder of `dream`."""
    path = Path(run).expanduser().absolute()
    if path.is_dir():
        path = (path / word if (path / DREAM).exists() else path) / LAST
    checkpoint = read_checkpoint(path, stage, key)
    names = {name.split(".")[1] for name in checkpoint["state_dict"] if name.startswith("particles.")}
    if len(names) != count:
        raise InputError(f"{key}: {path} has {len(names)} particles, model.particles is {count}; make them equal")
    return checkpoint


def _particle(checkpoint: dict, index: int) -> dict:
    """The state of one particle."""
    prefix = f"particles.{index}."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def load_nerfs(run: str, count: int, key: str = "model.nerf") -> list[NerfParticle]:
    """Loads the particles of a run of the NeRF stage, frozen.

    Args:
        run: Run folder, folder of `dream`, or checkpoint.
        count: Particles that it must have.
        key: The option that names the run, for errors.

    Raises:
        InputError: There is no such checkpoint, or it has another number of particles.
    """
    checkpoint = _load(run, key, "NerfStage", "nerf", count)
    particles = []
    for i in range(count):
        particle = NerfParticle(FieldSettings(**checkpoint["vsd"]["field"]))
        particle.load_state_dict(_particle(checkpoint, i))
        particles.append(particle.requires_grad_(False))
    return particles


def load_meshes(run: str, count: int, key: str = "model.geometry") -> list[Mesh]:
    """Loads the meshes of a run of the geometry stage, solid and without floaters (see scene.solids).

    Args:
        run: Run folder, folder of `dream`, or checkpoint.
        count: Particles that it must have.
        key: The option that names the run, for errors.

    Raises:
        InputError: There is no such checkpoint, or it has another number of particles.
    """
    checkpoint = _load(run, key, "GeometryStage", "geometry", count)
    meshes = []
    for i in range(count):
        surface = DMTet(checkpoint["vsd"]["resolution"])
        surface.load_state_dict(_particle(checkpoint, i))
        meshes.append(solid_mesh(surface))
    return meshes


def given_mesh(path: str | Path, index: int) -> GivenMesh:
    """The mesh on which a run of the texture stage began, as its checkpoint holds it.

    Args:
        path: Of the checkpoint.
        index: Of the particle.

    Raises:
        InputError: There is no such checkpoint, or the run textures no mesh of a file.
    """
    state = _particle(read_checkpoint(Path(path), "TextureStage"), index)
    if "to_file" not in state:
        raise InputError(f"model.mesh: the run of {path} textures no mesh of a file; leave it out")
    charts = (state.get(name) for name in ("uv", "corners", "source"))
    return GivenMesh(Mesh(state["vertices"], state["faces"]), *charts, state["to_file"], "z" if state["z_up"] else "y")


def first_surface(nerf: NerfParticle, index: int, resolution: int, orbit: Orbit, size: int) -> Start:
    """The surface of a particle's NeRF (see scene.iso_surface.from_field).

    Args:
        nerf: The particle.
        index: Its number, for errors.
        resolution: Cells of the tetrahedral grid along an axis.
        orbit: Cameras of the silhouettes by which the density threshold is chosen.
        size: Pixels of a silhouette's side.

    Raises:
        InputError: The NeRF has no surface.
    """
    try:
        return from_field(nerf.field, nerf.renderer, resolution, orbit, size)
    except NoSurface as error:
        raise InputError(f"model.nerf: particle {index} has no surface, {error}; train the NeRF anew") from error
