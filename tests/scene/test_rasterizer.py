"""Fragments of rasterised meshes: visibility, interpolation, gradients inside of faces, projection."""

import math

import pytest
import torch
from rough_meshes import cameras, look, rough_torus

from scene.cameras import pixel_rays, rays, turntable
from scene.rasterizer import interpolate, project, rasterize, visible_fragments
from scene.visibility import BruteForceCaster, RayCaster


def test_visibility_agrees_with_brute_force():
    mesh, view, size = rough_torus(), look(cameras(3)), 24
    fast = rasterize(mesh.vertices, mesh.faces, *view, size)
    slow = rasterize(mesh.vertices, mesh.faces, *view, size, BruteForceCaster(mesh.vertices, mesh.faces))
    assert 0.1 < fast.mask.mean() < 0.9 and fast.mask.shape == (3, size, size, 1)
    assert (fast.face != slow.face).float().mean() < 0.002, "only where a ray meets an edge"
    torch.testing.assert_close(fast.depth, slow.depth, atol=1e-4, rtol=1e-4)
    assert (fast.barycentric.sum(-1) - fast.mask[..., 0]).abs().max() < 1e-5
    assert fast.barycentric.min() > -1e-3 and fast.barycentric.max() < 1 + 1e-3


def test_interpolated_positions_lie_on_the_rays_at_their_depth():
    mesh, view, size = rough_torus(), look(cameras(3)), 32
    fragments = rasterize(mesh.vertices, mesh.faces, *view, size)
    origins, directions = pixel_rays(*view, size)
    expected = origins + fragments.depth.view(-1, 1) * directions
    points = interpolate(fragments, mesh.faces, mesh.vertices).view(-1, 3)
    hit = fragments.mask.view(-1) > 0
    torch.testing.assert_close(points[hit], expected[hit], atol=1e-5, rtol=1e-5)
    assert (points[~hit] == 0).all()


def test_the_picture_is_the_right_way_round():
    """From the front (+x), the object's left side (+y) is on the right of the picture and its top (+z) above."""
    corner = torch.tensor([[0.0, 0.3, 0.3], [0.0, 0.5, 0.3], [0.0, 0.4, 0.6]])
    fragments = rasterize(corner, torch.tensor([[0, 1, 2]]), *look(turntable(1, elevation=0)), 32)
    row, column = fragments.face[0].ge(0).nonzero().double().mean(0)
    focal = 16 / math.tan(math.radians(20))
    assert row.item() + 0.5 == pytest.approx(16 - focal * 0.4 / 2.5, abs=0.5)
    assert column.item() + 0.5 == pytest.approx(16 + focal * 0.4 / 2.5, abs=0.5)
    assert fragments.depth.max().item() == pytest.approx(math.hypot(2.5, 0.5), abs=0.1)


def test_projection_inverts_rays():
    orbit = cameras(5)
    matrices, fovy = look(orbit)
    pixels = torch.rand(5, 1, 2) * 48
    origins, directions = rays(matrices, fovy, pixels, 48, 48)
    where, depth = project(origins + 1.7 * directions[:, 0], matrices, fovy, 48)
    torch.testing.assert_close(where, pixels[:, 0], atol=1e-3, rtol=1e-4)
    cosine = -(directions[:, 0] * matrices[:, :3, 2]).sum(1)
    torch.testing.assert_close(depth, 1.7 * cosine)


def test_the_nearest_of_two_surfaces_is_seen_from_either_side():
    square = torch.tensor([[0.0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]])
    vertices = torch.cat([square, square + torch.tensor([0.5, 0.0, 0.0])])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    fragments = rasterize(vertices, faces, *look(turntable(2, elevation=0, fovy=20)), 8)
    assert (fragments.face[0] >= 2).all() and (fragments.face[1] < 2).all() and (fragments.face[1] >= 0).all()


def test_gradients_inside_are_those_of_finite_differences():
    """Barycentric weights, depths and interpolated attributes, for the faces that are seen."""
    mesh, view, size = rough_torus(6), look(cameras(2)), 6
    view = tuple(v.double() for v in view)
    face = rasterize(mesh.vertices.double(), mesh.faces, *view, size).face
    origins, directions = pixel_rays(*view, size)
    assert 10 < (face >= 0).sum() < face.numel()

    def shaded(vertices, attributes):
        fragments = visible_fragments(face, vertices, mesh.faces, origins, directions)
        return interpolate(fragments, mesh.faces, attributes), fragments.depth

    used = mesh.faces[face[face >= 0]].unique()
    vertices = mesh.vertices.double()
    attributes = torch.randn(len(vertices), 2, dtype=torch.float64)

    def of_some(some, values):
        return shaded(vertices.index_put((used,), some), attributes.index_put((used,), values))

    start = vertices[used].requires_grad_(), attributes[used].requires_grad_()
    assert torch.autograd.gradcheck(of_some, start, fast_mode=True)
    assert torch.autograd.gradcheck(lambda some: of_some(some, start[1].detach()), start[:1], atol=1e-4)


@pytest.mark.parametrize("kind", ["no faces", "nothing in view"])
def test_nothing_to_see_is_an_empty_image(kind):
    if kind == "no faces":
        vertices, faces = torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)
    else:
        vertices, faces = torch.rand(3, 3) + torch.tensor([9.0, 0, 0]), torch.tensor([[0, 1, 2]])
    vertices.requires_grad_()
    for caster in (RayCaster(vertices, faces), BruteForceCaster(vertices, faces)):
        fragments = rasterize(vertices, faces, *look(turntable(2)), 8, caster)
        image = interpolate(fragments, faces, torch.ones(len(vertices), 5, requires_grad=True))
        assert image.shape == (2, 8, 8, 5) and (fragments.face == -1).all() and fragments.mask.sum() == 0
        assert image.abs().sum() == 0 == fragments.depth.sum()
        (image.sum() + fragments.depth.sum()).backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_what_the_cpu_sees():
    mesh, view = rough_torus(), look(cameras(3))
    here = rasterize(mesh.vertices, mesh.faces, *view, 64)
    there = rasterize(mesh.vertices.cuda(), mesh.faces.cuda(), *(v.cuda() for v in view), 64)
    assert (here.face != there.face.cpu()).float().mean() < 0.002
    torch.testing.assert_close(here.depth, there.depth.cpu(), atol=1e-3, rtol=1e-3)
