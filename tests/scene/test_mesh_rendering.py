"""Renders of textured meshes: known colours and normals, derivatives by finite differences, and nothing at all."""

import pytest
import torch

from scene.cameras import turntable
from scene.mesh import Mesh
from scene.mesh_rendering import render_mesh
from scene.visibility import BruteForceCaster

ORBIT = turntable(2, elevation=10, distance=2.5)


def octahedron(radius=0.6, dtype=torch.float32):
    """Faces turned outward."""
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).to(dtype) * radius
    corners = [(i, j, k) for i in (0, 3) for j in (1, 4) for k in (2, 5)]
    faces = [(i, j, k) if (i > 0) ^ (j > 1) ^ (k > 2) == 0 else (i, k, j) for i, j, k in corners]
    return Mesh(axes, torch.tensor(faces))


def position_colour(points):
    return 0.5 + 0.5 * points


def test_colour_and_normal_are_those_of_the_surface_point():
    mesh = octahedron()
    assert mesh.volume() > 0
    out = render_mesh(mesh, ORBIT.cameras(33), position_colour)
    inside = out.coverage[..., 0] > 0.999
    points = 2 * out.colour[inside] - 1
    assert torch.allclose(points.abs().sum(-1), torch.full((len(points),), 0.6), atol=1e-4), "on the octahedron"
    assert torch.allclose(out.normal[inside], points / 0.6, atol=1e-4), "vertex normals are the axes"
    assert inside.float().mean() > 0.03 and out.coverage.min() == 0


def test_an_empty_mesh_is_nothing_with_a_graph():
    vertices, tint = torch.zeros(0, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    out = render_mesh(
        Mesh(vertices, torch.zeros(0, 3, dtype=torch.long)), ORBIT.cameras(8), lambda points: points + tint
    )
    assert out.coverage.shape == (2, 8, 8, 1) and not out.coverage.any() and not out.colour.any()
    out.colour.sum().backward()
    assert not tint.grad.any()


def test_colours_and_outlines_have_the_derivative_of_finite_differences():
    """Blown up by 1 %: the sum of coverage and colour over the images changes as the derivative says."""

    def total(scale):
        mesh = octahedron(dtype=torch.float64)
        mesh = Mesh(mesh.vertices * scale, mesh.faces)
        caster = BruteForceCaster(mesh.vertices, mesh.faces)
        out = render_mesh(mesh, ORBIT.cameras(64), position_colour, caster)
        return out.coverage.sum(), out.colour.square().sum()

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    steps = [total(torch.tensor(1 + d, dtype=torch.float64)) for d in (-0.02, 0.02)]
    for k, value in enumerate(total(scale)):
        (slope,) = torch.autograd.grad(value, scale, retain_graph=True)
        measured = (steps[1][k] - steps[0][k]) / 0.04
        assert slope.item() == pytest.approx(measured.item(), rel=0.06)


def test_a_colours_parameters_get_their_gradient():
    colour = torch.full((3,), 0.3, requires_grad=True)
    out = render_mesh(octahedron(), ORBIT.cameras(16), lambda points: colour.expand(len(points), 3))
    out.colour.sum().backward()
    assert torch.allclose(colour.grad, out.coverage.sum().expand(3), rtol=1e-4)
