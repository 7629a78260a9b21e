"""What a finished run of a 3D stage has: the surface and the colours of every particle, from its checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import Tensor

from common.errors import InputError
from lightning_modules.handover import (
    first_surface,
    given_mesh,
    load_meshes,
    load_nerfs,
    load_run,
    stage_folder,
)
from lightning_modules.nerf import FieldSettings, NerfParticle
from lightning_modules.run.folder import CONFIG, DREAM, LAST
from lightning_modules.textured_mesh import TexturedMesh
from lightning_modules.wish import STAGES
from scene.export import Placement
from scene.iso_surface import judging_cameras
from scene.mesh import Mesh
from scene.solids import solid_mesh
from scene.texture import Atlas

JUDGED = 64  # pixels of the silhouettes by which the surface of a NeRF is chosen


@dataclass(frozen=True)
class FinishedParticle:
    """A particle to look at and to export.

    Args:
        mesh: Its surface.
        colour: Points (N, 3) to rgb (N, 3) in [0, 1].
        placement: Where files have it.
        atlas: From texels of a side to texture coordinates to keep; None where they are made anew.
        nerf: The particle itself, of a run of the NeRF stage, which is seen by volume rendering; None else.
    """

    mesh: Mesh
    colour: Callable[[Tensor], Tensor]
    placement: Placement
    atlas: Callable[[int], Atlas] | None = None
    nerf: NerfParticle | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A run of a 3D stage.

    Args:
        folder: Of the stage.
        prompt: Of the run.
        seed: Of the run.
        stage: Name of the stage's class.
        texture_size: Texels of the stage's images' side, None where it has none.
        distance: Of the cameras of its pictures, world units.
        fovy: Vertical field of view of those, degrees.
        particles: All of them.
    """

    folder: Path
    prompt: str
    seed: int
    stage: str
    texture_size: int | None
    distance: float
    fovy: float
    particles: list[FinishedParticle]


def load_finished(folder: Path, resolution: int = 64) -> FinishedRun:
    """Loads a run, finished or stopped, from its last checkpoint.

    Args:
        folder: A run folder of the NeRF, geometry or texture stage, or of `dream`, whose last stage is meant.
        resolution: Cells along an axis of the grid on which the surface of a NeRF is found.

    Raises:
        InputError: There is no such run, it has no 3D particles, or a NeRF has no surface.
    """
    folder = stage_folder(folder)
    record = _record(folder)
    options, data = record["model"].get("init_args", {}), (record.get("data") or {}).get("init_args", {})
    stage, count = record["model"]["class_path"].rpartition(".")[2], options.get("particles", 1)
    distance, fovy = data.get("eval_distance", 2.3), data.get("eval_fovy", 40.0)
    if stage == "NerfStage":
        orbit = judging_cameras(distance, fovy)
        particles = []
        for i, nerf in enumerate(load_nerfs(str(folder), count, "RUN")):
            surface = first_surface(nerf, i, resolution, orbit, JUDGED).surface
            particles.append(FinishedParticle(solid_mesh(surface), _albedo(nerf), Placement(), nerf=nerf))
    elif stage == "GeometryStage":
        nerfs = load_nerfs(_previous(folder, "nerf", options), count)
        meshes = load_meshes(str(folder), count, "RUN")
        particles = [
            FinishedParticle(mesh, _albedo(nerf), Placement()) for mesh, nerf in zip(meshes, nerfs, strict=True)
        ]
    elif stage == "TextureStage":
        particles = [
            FinishedParticle(p.mesh()[0], p.colour, p.placement, p.atlas if p.has_atlas else None)
            for p in _textured(folder, options, count)
        ]
    else:
        raise InputError(f"{folder}: a run of {stage} has no meshes; name one of {', '.join(STAGES)}")
    words = record.get("prompt") or "", record.get("seed_everything") or 0
    return FinishedRun(folder, *words, stage, options.get("texture_size"), distance, fovy, particles)


def _record(folder: Path) -> dict:
    """The configuration of a run."""
    try:
        record = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        record["model"]["class_path"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(f"{folder / CONFIG} is damaged; restore it") from error
    return record


def _previous(folder: Path, stage: str, options: dict) -> str:
    """The run of a previous stage: that of the same `dream`, else the one that the record names."""
    if (folder.parent / DREAM).is_file() and (folder.parent / stage).is_dir():
        return str(folder.parent / stage)
    return str(options.get(stage))


def _albedo(nerf: NerfParticle) -> Callable[[Tensor], Tensor]:
    return lambda points: nerf.field(points)[1]


def _textured(folder: Path, options: dict, count: int) -> list[TexturedMesh]:
    """The particles of a run of the texture stage."""
    notes, states = load_run(str(folder), "texture", count, "RUN")
    found = notes.get("field")
    if found is not None:
        settings = FieldSettings(**found)
    else:  # of a version that did not keep them
        settings = load_nerfs(_previous(folder, "nerf", options), count)[0].settings
    particles = []
    for i, state in enumerate(states):
        given = given_mesh(folder / LAST, i) if "to_file" in state else None
        particle = TexturedMesh(Mesh(state["vertices"], state["faces"]), NerfParticle(settings), given)
        particle.load_state_dict(state)
        particles.append(particle.requires_grad_(False))
    return particles
