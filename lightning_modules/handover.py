"""What one stage takes from another: the particles in the checkpoint of a run.

A run is named by its folder, RUN, by a folder of `dream` (whose stage of that kind is meant), or by a checkpoint.
"""

from dataclasses import replace
from pathlib import Path

from common.errors import InputError
from lightning_modules.nerf import FieldSettings, NerfParticle
from lightning_modules.run.checkpoints import read_checkpoint
from lightning_modules.run.folder import CONFIG, DREAM, LAST
from lightning_modules.wish import STAGES
from scene.cameras import Orbit
from scene.iso_surface import NoSurface, Start, from_field
from scene.mesh import Mesh, MeshError
from scene.mesh_files import GivenMesh, Up, read_mesh
from scene.solids import solid_mesh
from scene.tetrahedra import DMTet
from scene.texture import Atlas
from scene.texture_coordinates import unusable

KINDS = {"nerf": "NerfStage", "geometry": "GeometryStage", "texture": "TextureStage"}  # classes of the stages


def load_run(run: str, stage: str, count: int, key: str) -> tuple[dict, list[dict]]:
    """Reads the particles in the checkpoint of a run.

    Args:
        run: Run folder, folder of `dream`, or checkpoint.
        stage: One of STAGES.
        count: Particles that the run must have.
        key: The option that names the run, for errors.

    Returns:
        What the stage has noted in its checkpoint, and the tensors of every particle by their names in it.

    Raises:
        InputError: There is no such checkpoint, or it has another number of particles.
    """
    path = Path(run).expanduser().absolute()
    if path.is_dir():
        path = (path / stage if (path / DREAM).exists() else path) / LAST
    checkpoint = read_checkpoint(path, KINDS[stage], key)
    names = {name.split(".")[1] for name in checkpoint["state_dict"] if name.startswith("particles.")}
    if len(names) != count:
        raise InputError(f"{key}: {path} has {len(names)} particles, model.particles is {count}; make them equal")
    return checkpoint["vsd"], [particle_state(checkpoint, i) for i in range(count)]


def particle_state(checkpoint: dict, index: int) -> dict:
    """The tensors of one particle in a checkpoint, by their names in it.

    Args:
        checkpoint: Of a stage.
        index: Of the particle.
    """
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
    notes, states = load_run(run, "nerf", count, key)
    particles = [NerfParticle(FieldSettings(**notes["field"])) for _ in states]
    for particle, state in zip(particles, states, strict=True):
        particle.requires_grad_(False).load_state_dict(state)
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
    notes, states = load_run(run, "geometry", count, key)
    surfaces = [DMTet(notes["resolution"]) for _ in states]
    for surface, state in zip(surfaces, states, strict=True):
        surface.load_state_dict(state)
    return [solid_mesh(surface) for surface in surfaces]


def read_given(
    path: str, radius: float, up: Up, keep_uv: bool, size: int, key: str = "model.mesh"
) -> tuple[GivenMesh, str]:
    """Reads a mesh of another program.

    Args:
        path: Of the file.
        radius: Of the ball in which it is put, world units.
        up: Its axes.
        keep_uv: Whether its texture coordinates are kept where an image can be baked for them.
        size: Texels of that image's side.
        key: The option that names the file, for errors.

    Returns:
        The mesh, and a line about it.

    Raises:
        InputError: The file is of no use.
    """
    try:
        given = read_mesh(Path(path).expanduser(), radius, up)
    except MeshError as error:
        raise InputError(f"{key}: {error}") from error
    if given.uv is None:
        words = "it has no texture coordinates, they are made"
    elif not keep_uv:
        words = "its texture coordinates are made anew"
    elif reason := unusable(given.mesh, Atlas(given.uv, given.corners, given.source, size)):
        words = f"its texture coordinates {reason}; they are made anew"
    else:
        words = "it keeps its coordinates"
    if not words.startswith("it keeps"):
        given = replace(given, uv=None, corners=None, source=None)
    bodies, closed = given.mesh.components()[0], "closed" if given.mesh.is_watertight else "open"
    return given, f"mesh: {len(given.mesh.faces)} faces, bodies: {bodies}, {closed}; {words}"


def given_mesh(path: str | Path, index: int) -> GivenMesh:
    """The mesh on which a run of the texture stage began, as its checkpoint holds it.

    Args:
        path: Of the checkpoint.
        index: Of the particle.

    Raises:
        InputError: There is no such checkpoint, or the run textures no mesh of a file.
    """
    state = particle_state(read_checkpoint(Path(path), KINDS["texture"]), index)
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


def stage_folder(folder: Path) -> Path:
    """The folder of the run that is meant: of a `dream` folder, the last stage that has a checkpoint.

    Args:
        folder: A run folder, or a folder of `dream`.

    Returns:
        The run folder.

    Raises:
        InputError: There is no run in the folder.
    """
    if (folder / DREAM).is_file():
        through = [folder / stage for stage in STAGES if (folder / stage / LAST).is_file()]
        if not through:
            raise InputError(f"{folder}: no stage has left a checkpoint yet; resume it with 'dream --resume {folder}'")
        return through[-1]
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: no run folder, {CONFIG} is missing; name the folder that a run has printed")
    return folder
