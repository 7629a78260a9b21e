"""DMTet, rasteriser and antialiasing together: objects from their silhouettes and normals in a few views.

The bounds are a third of the distance at the start or less; without the gradient of either part a fit misses them.
"""

import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from scene.cameras import Orbit, pixel_rays, turntable
from scene.mesh import Mesh
from scene.rasterizer import interpolate, rasterize
from scene.silhouettes import antialias, silhouettes
from scene.tetrahedra import DMTet
from scene.visibility import RayCaster
from toybox.world.objects import build, stack
from toybox.world.render import render

VIEWS, SIZE = 12, 40
SEEN = turntable(8, elevation=25)  # from where the results are judged


def training_views() -> Orbit:
    """Spread around the object, from above, the side and below."""
    index = torch.arange(VIEWS)
    elevation = torch.tensor([20.0, -15.0, 65.0]).repeat(VIEWS // 3)
    return Orbit((index * 137.508) % 360, elevation, torch.full((VIEWS,), 2.5), torch.full((VIEWS,), 40.0))


def draw(mesh: Mesh, orbit: Orbit) -> Tensor:
    """World normals and coverage (B, SIZE, SIZE, 4)."""
    view = orbit.camera_to_world(), orbit.fovy
    caster = RayCaster(mesh.vertices, mesh.faces)
    fragments = rasterize(mesh.vertices, mesh.faces, *view, SIZE, caster)
    image = torch.cat([interpolate(fragments, mesh.faces, mesh.vertex_normals()), fragments.mask], -1)
    return antialias(image, silhouettes(mesh, *view, SIZE, caster))


def seen_points(mesh: Mesh, size: int = 64) -> Tensor:
    """Points of the surface that the judging cameras see."""
    view = SEEN.camera_to_world(), SEEN.fovy
    fragments = rasterize(mesh.vertices, mesh.faces, *view, size)
    origins, directions = pixel_rays(*view, size)
    return (origins + fragments.depth.view(-1, 1) * directions)[fragments.mask.view(-1) > 0].detach()


def chamfer(one: Tensor, two: Tensor) -> float:
    """Mean distance to the nearest point of the other cloud, both ways."""
    return (cKDTree(one.numpy()).query(two.numpy())[0].mean() + cKDTree(two.numpy()).query(one.numpy())[0].mean()) / 2


def level_set(field, resolution: int) -> Mesh:
    surface = DMTet(resolution)
    surface.initialise(field)
    mesh = surface.extract()
    return Mesh(mesh.vertices.detach(), mesh.faces)


def torus(large: float, small: float):
    return lambda points: small - torch.stack([points[:, :2].norm(dim=-1) - large, points[:, 2]], -1).norm(dim=-1)


def target_of_mesh(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Images from 4 x 4 samples a pixel, and the seen points."""
    orbit = training_views()
    fragments = rasterize(mesh.vertices, mesh.faces, orbit.camera_to_world(), orbit.fovy, 4 * SIZE)
    image = torch.cat([interpolate(fragments, mesh.faces, mesh.vertex_normals()), fragments.mask], -1)
    return image.view(VIEWS, SIZE, 4, SIZE, 4, 4).mean((2, 4)), seen_points(mesh)


def target_of_toy(name: str) -> tuple[Tensor, Tensor]:
    solids, size = build(name, "red", seed=0), 64
    near, far = render(stack([solids] * VIEWS), training_views(), SIZE), render(stack([solids] * len(SEEN)), SEEN, size)
    origins, directions = pixel_rays(SEEN.camera_to_world(), SEEN.fovy, size)
    points = (origins + far.depth.view(-1, 1) * directions)[far.alpha.view(-1) > 0.99]
    return torch.cat([near.normal, near.alpha], -1), points


def fit(surface: DMTet, target: Tensor, steps: int) -> None:
    orbit = training_views()
    optimizer = torch.optim.Adam(surface.parameters(), 0.01, betas=(0.9, 0.99), eps=1e-15)
    for _ in range(steps):
        batch = torch.randperm(VIEWS)[:4]
        mesh = surface.extract()
        loss = (draw(mesh, orbit[batch]) - target[batch]).square().mean() + 1e-3 * mesh.normal_consistency()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


CASES = {
    "sphere": (
        lambda: target_of_mesh(level_set(lambda points: 0.5 - points.norm(dim=-1), 48)),
        lambda points: 0.4 - ((points - 0.1) * torch.tensor([0.8, 1.0, 1.4])).norm(dim=-1),
        (14, 40, 0.011),
    ),
    "torus": (lambda: target_of_mesh(level_set(torus(0.5, 0.17), 48)), torus(0.42, 0.28), (18, 60, 0.011)),
    "car": (
        lambda: target_of_toy("car"),
        lambda points: 0.65 - (points / torch.tensor([1.0, 0.8, 0.7])).norm(dim=-1),
        (18, 140, 0.014),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_surface_is_fitted_to_silhouettes_and_normals(name):
    make_target, start, (resolution, steps, bound) = CASES[name]
    target, truth = make_target()
    surface = DMTet(resolution, (-0.8,) * 3, (0.8,) * 3)
    surface.initialise(lambda points: start(points).clamp(-0.05, 0.05))
    before = chamfer(seen_points(surface.extract()), truth)
    fit(surface, target, steps)
    mesh = surface.extract()
    after = chamfer(seen_points(mesh), truth)
    print(f"{name}: Chamfer distance {before:.4f} -> {after:.4f}, {len(mesh.faces)} faces")
    assert after < bound < before / 3
    assert mesh.is_watertight and mesh.volume() > 0
