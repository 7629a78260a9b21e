"""A mesh and cameras that tests of rasterisation share."""

import torch

from scene.cameras import Orbit
from scene.mesh import Mesh
from scene.tetrahedra import DMTet


def rough_torus(resolution=14):
    surface = DMTet(resolution)
    surface.initialise(
        lambda p: 0.2 - torch.stack([p[:, :2].norm(dim=-1) - 0.5, p[:, 2] - 0.1 * p[:, 0]], -1).norm(dim=-1)
    )
    with torch.no_grad():
        surface.deformation.normal_()
        mesh = surface.extract()
    return Mesh(mesh.vertices, mesh.faces)


def cameras(count):
    return Orbit(
        torch.rand(count) * 360,
        torch.rand(count) * 120 - 60,
        1.5 + torch.rand(count),
        30 + 40 * torch.rand(count),
    )


def look(orbit):
    return orbit.camera_to_world(), orbit.fovy
