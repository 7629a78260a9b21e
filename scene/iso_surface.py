"""From a radiance field to a DMTet surface: the box, the density threshold, the first values.

The threshold is found by trial: of several the one whose silhouettes agree best with the field's opacity is kept.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scene.cameras import Orbit, pixel_rays
from scene.mesh import Mesh
from scene.radiance_field import RadianceField
from scene.solids import solidify
from scene.tetrahedra import DMTet
from scene.visibility import RayCaster
from scene.volume_rendering import VolumeRenderer

THRESHOLDS = (1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0)  # 2.5, 10: ProlificDreamer's; 25: threestudio's
PROBES = 64  # points along an axis at which the occupied box is looked for
MARGIN = 0.1  # of the box's extent, on either side
FULL = 0.9  # fraction of the border of the field's cube above the threshold, from which on it shows no object
VIEWS = 12


class NoSurface(ValueError):
    """A field has no surface: it is empty, or fills its cube. The message says which, as part of a sentence."""


@dataclass
class Start:
    """The surface that a stage starts from.

    Args:
        surface: The surface.
        threshold: The density at which it was taken, per unit length.
        iou: Of its silhouettes with the field's, in [0, 1].
    """

    surface: DMTet
    threshold: float
    iou: float


def judging_cameras(distance: float, fovy: float) -> Orbit:
    """Twelve cameras all around, from above, the side and below.

    Args:
        distance: From the origin, world units.
        fovy: Vertical field of view, degrees.

    Returns:
        The cameras.
    """
    index = torch.arange(VIEWS)
    elevation = torch.tensor([20.0, -15.0, 60.0]).repeat(VIEWS // 3)
    return Orbit((index * 137.508) % 360, elevation, torch.full((VIEWS,), distance), torch.full((VIEWS,), fovy))


def intersection_over_union(one: Tensor, two: Tensor) -> float:
    """IoU of two masks of any shape; 1 where both are empty."""
    either = (one | two).sum()
    return float((one & two).sum() / either) if either else 1.0


@torch.no_grad()
def field_mask(field: RadianceField, renderer: VolumeRenderer, orbit: Orbit, size: int) -> Tensor:
    """Where cameras see a field of opacity above one half.

    Args:
        field: What is seen.
        renderer: Of the field, with its occupancy grid.
        orbit: B cameras.
        size: Pixels per side.

    Returns:
        Masks (B, size, size).
    """
    device = renderer.occupancy.occs.device
    masks = []
    for camera, fovy in zip(orbit.camera_to_world().to(device), orbit.fovy.to(device), strict=True):
        out = renderer(field, *pixel_rays(camera[None], fovy[None], size))
        masks.append((out.opacity > 0.5).view(size, size))
    return torch.stack(masks)


@torch.no_grad()
def mesh_mask(mesh: Mesh, orbit: Orbit, size: int) -> Tensor:
    """Where cameras see a mesh.

    Args:
        mesh: What is seen; may be empty.
        orbit: B cameras.
        size: Pixels per side.

    Returns:
        Masks (B, size, size).
    """
    view = orbit.camera_to_world().to(mesh.vertices), orbit.fovy.to(mesh.vertices)
    return RayCaster(mesh.vertices, mesh.faces).visible_faces(*view, size) >= 0


@torch.no_grad()
def probe(field: RadianceField, bound: float) -> Tensor:
    """Densities on a lattice over the field's cube, its border included.

    Args:
        field: The field.
        bound: Half the cube's side, world units.

    Returns:
        (PROBES, PROBES, PROBES), by x, y and z.
    """
    side = torch.linspace(-bound, bound, PROBES, device=next(field.parameters()).device)
    points = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1)  # (PROBES, PROBES, PROBES, 3)
    return torch.stack([field.density(sheet.view(-1, 3)).view(PROBES, PROBES) for sheet in points])


def occupied_box(density: Tensor, bound: float, threshold: float) -> tuple[Tensor, Tensor] | None:
    """The box around the densities above a threshold, with a margin, inside the field's cube.

    Args:
        density: Of `probe`.
        bound: Half the cube's side, world units.
        threshold: Density, per unit length.

    Returns:
        The low and the high corner, (3,) each; None if no density is above the threshold.

    Raises:
        NoSurface: The cube's border is above the threshold: nothing in it is an object.
    """
    dense = density > threshold
    faces = torch.cat([dense.select(axis, end).flatten() for axis in range(3) for end in (0, -1)])
    if faces.float().mean() > FULL:
        raise NoSurface(f"its density is above {threshold:g} all over the border of its cube")
    where = dense.nonzero()  # (N, 3)
    if len(where) == 0:
        return None
    side = torch.linspace(-bound, bound, PROBES, device=density.device)
    low, high = side[where.amin(0)], side[where.amax(0)]
    margin = MARGIN * (high - low).clamp(min=2 * bound / PROBES) + 2 * bound / PROBES
    return (low - margin).clamp(min=-bound), (high + margin).clamp(max=bound)


@torch.no_grad()
def from_field(
    field: RadianceField,
    renderer: VolumeRenderer,
    resolution: int,
    orbit: Orbit,
    size: int = 64,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Start:
    """The surface of a field at the threshold that suits it best, a solid body in a box that fits it.

    Its values are the logarithm of density over threshold, cut to [-1, 1], which changes more evenly across a surface
    than the density itself.

    Args:
        field: The field.
        renderer: Of the field, with its occupancy grid.
        resolution: Cells of the tetrahedral grid per axis, >= 3.
        orbit: The cameras whose silhouettes are compared.
        size: Pixels per side of the silhouettes.
        thresholds: Densities to try, per unit length, ascending.

    Returns:
        The surface whose silhouettes agree best with the field's.

    Raises:
        NoSurface: The field is empty or fills its cube at all thresholds.
    """
    wanted = field_mask(field, renderer, orbit, size)  # (B, size, size)
    best, reason = None, f"its density is nowhere above {min(thresholds):g}"
    if not wanted.any():
        raise NoSurface("no camera sees it")
    density = probe(field, renderer.bound)
    for threshold in thresholds:
        try:
            box = occupied_box(density, renderer.bound, threshold)
        except NoSurface as error:
            reason = str(error)
            continue
        if box is None:
            break
        surface = DMTet(resolution, *(tuple(corner.tolist()) for corner in box)).to(box[0].device)
        surface.initialise(lambda points, t=threshold: field.density(points).clamp(min=1e-9).log() - math.log(t))
        surface.sdf.clamp_(-1.0, 1.0)
        solidify(surface)
        iou = intersection_over_union(mesh_mask(surface.extract(), orbit, size), wanted)
        if best is None or iou > best.iou:
            best = Start(surface, threshold, iou)
    if best is None or best.iou == 0:
        raise NoSurface(reason)
    return best
