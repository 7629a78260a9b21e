import math

import pytest
import torch

from scene.cameras import Orbit, turntable
from scene.mesh import Mesh
from scene.rasterizer import interpolate, project, rasterize
from scene.silhouettes import antialias, silhouettes
from scene.tetrahedra import DMTet
from scene.visibility import BruteForceCaster, RayCaster

FRONT = turntable(1, elevation=0)  # from +x: rows are -z, columns are +y
FOCAL = 0.5 / math.tan(math.radians(20))  # image heights


def look(orbit):
    return orbit.camera_to_world(), orbit.fovy


def anywhere(count):
    return Orbit(
        torch.rand(count) * 360, torch.rand(count) * 120 - 60, torch.full((count,), 2.5), torch.full((count,), 40.0)
    )


def coverage(mesh, view, size):
    """Antialiased masks (B, size, size)."""
    caster = RayCaster(mesh.vertices, mesh.faces)
    mask = rasterize(mesh.vertices, mesh.faces, *view, size, caster).mask
    return antialias(mask, silhouettes(mesh, *view, size, caster))[..., 0]


def supersampled(mesh, view, size, factor=8):
    mask = rasterize(mesh.vertices, mesh.faces, *view, size * factor).mask
    return mask.view(-1, size, factor, size, factor).mean((2, 4))


def ball(resolution, radius=0.5, roughness=0.0):
    surface = DMTet(resolution)
    surface.initialise(lambda points: radius - points.norm(dim=-1))
    with torch.no_grad():
        surface.deformation.normal_().mul_(roughness)
        mesh = surface.extract()
    return mesh


def rectangle(left, right, bottom, top, x=0.0):
    """Facing the front camera, in units of pictures' heights from its centre."""
    scale = (2.5 - x) / FOCAL
    y, z = torch.as_tensor([left, right, right, left]), torch.as_tensor([bottom, bottom, top, top])
    vertices = torch.stack([torch.full((4,), x), y * scale, z * scale], -1)
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))


@pytest.mark.parametrize("shift", [0.0, 0.013, 0.031, 0.044])
def test_a_rectangles_pixels_are_covered_exactly(shift):
    size = 16
    mesh = rectangle(-0.3 + shift, 0.2 + shift, -0.4, 0.1 + shift)
    got = coverage(mesh, look(FRONT), size)[0]
    edges = (torch.arange(size + 1) - size / 2) / size
    columns = (edges[1:].clamp(max=0.2 + shift) - edges[:-1].clamp(min=-0.3 + shift)).clamp(min=0) * size
    rows = (edges[1:].clamp(max=0.1 + shift) - edges[:-1].clamp(min=-0.4)).clamp(min=0).flip(0) * size
    expected = rows[:, None] * columns
    inner = (rows[:, None] == 1) | (columns == 1) | (expected == 0)
    assert inner.sum() > size * size - 8, "all but the corners"
    torch.testing.assert_close(got[inner], expected[inner], atol=1e-4, rtol=0)


def test_a_triangles_area_and_its_derivative_are_those_of_the_polygon():
    """The sum of the mask against the shoelace formula of the projected corners, large triangles at any angle."""
    size, faces = 48, torch.tensor([[0, 1, 2]])
    for _ in range(8):
        orbit = anywhere(1)
        vertices = (torch.randn(3, 3, dtype=torch.float64) * 0.5).requires_grad_()
        view = tuple(v.double() for v in look(orbit))
        total = coverage(Mesh(vertices, faces), view, size).sum()
        corners, _ = project(vertices, view[0].expand(3, -1, -1), view[1].expand(3), size)
        a, b, c = corners
        area = 0.5 * ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]).abs()
        if area < 100 or corners.min() < 1 or corners.max() > size - 1:
            continue
        assert total.item() == pytest.approx(area.item(), rel=0.01)
        got, expected = (torch.autograd.grad(value, vertices)[0] for value in (total, area))
        assert (got - expected).norm() < 0.05 * expected.norm()
        break
    else:
        pytest.fail("no triangle fits the picture")


@pytest.mark.parametrize(
    ("resolution", "roughness"), [(12, 0.0), (40, 0.0), (40, 0.7)], ids=["faces without area", "small faces", "rough"]
)
def test_a_ball_grows_by_its_outline(resolution, roughness):
    """Supersampled differences; where it is smooth, a disc of radius f r / sqrt(d^2 - r^2)."""
    torch.manual_seed(1)
    size, view, mesh = 64, look(anywhere(4)), ball(resolution, 0.5, roughness)
    factor = torch.ones((), requires_grad=True)
    total = coverage(Mesh(factor * mesh.vertices, mesh.faces), view, size).sum()
    (got,) = torch.autograd.grad(total, factor)
    step = 0.02
    grown, shrunk = (
        supersampled(Mesh((1 + s) * mesh.vertices, mesh.faces), view, size, 4).sum() for s in (step, -step)
    )
    assert got.item() == pytest.approx(((grown - shrunk) / (2 * step)).item(), rel=0.02)
    if resolution == 40 and not roughness:
        slope = 2 * math.pi * (size * FOCAL) ** 2 * 0.5**2 * 2.5**2 / (2.5**2 - 0.5**2) ** 2
        assert got.item() / 4 == pytest.approx(slope, rel=0.01)


def test_every_step_of_a_mask_has_a_crossing():
    """Also next to faces without area, which the level through grid vertices makes."""
    size, view, mesh = 48, look(anywhere(4)), ball(12)
    assert (mesh.face_vectors().norm(dim=1) < 1e-9).any()
    mask = rasterize(mesh.vertices, mesh.faces, *view, size).mask[..., 0]
    found = silhouettes(mesh, *view, size)
    pixel = torch.arange(mask.numel()).view(mask.shape)
    for axis, step in ((2, 1), (1, size)):
        first = pixel.narrow(axis, 0, size - 1)[mask.diff(dim=axis) != 0]
        assert len(first) > 100
        assert torch.isin(first, found.first[found.second - found.first == step]).all()


@pytest.mark.parametrize(("resolution", "most"), [(16, 0.25), (40, 0.25)])
def test_outlines_are_nearer_to_supersampled_ones(resolution, most):
    size, view, mesh = 48, look(anywhere(3)), ball(resolution, 0.5, 0.5)
    truth = supersampled(mesh, view, size)
    hard = rasterize(mesh.vertices, mesh.faces, *view, size).mask[..., 0]
    soft = coverage(mesh, view, size)
    assert (soft - truth).norm() < most * (hard - truth).norm()
    assert (soft.sum() - truth.sum()).abs() < 1e-3 * truth.sum()


def test_positions_of_crossings_have_the_gradients_of_finite_differences():
    torch.manual_seed(2)
    mesh = ball(4, 0.47, 0.5)
    view = tuple(v.double() for v in look(anywhere(2)))
    start = mesh.vertices.double().requires_grad_()
    found = silhouettes(Mesh(start, mesh.faces), *view, 12)
    assert len(found.position) > 40

    def positions(vertices):
        again = silhouettes(Mesh(vertices, mesh.faces), *view, 12)
        assert torch.equal(again.first, found.first)
        return again.position

    assert torch.autograd.gradcheck(positions, start)


def test_images_have_the_gradients_of_finite_differences_in_a_shift():
    """Shading and outlines together, float64. A shift along the picture turns no edge, so the weights stay."""
    mesh = ball(5, 0.4, 0.5)
    view = tuple(v.double() for v in look(FRONT))
    vertices = mesh.vertices.double()
    target = torch.rand(1, 12, 12, 3, dtype=torch.float64)
    colours = torch.rand(len(vertices), 3, dtype=torch.float64)

    def loss(shift):
        moved = Mesh(vertices * torch.tensor([0.0, 1, 1]) + shift * torch.tensor([0.0, 0.8, 0.6]), mesh.faces)
        caster = BruteForceCaster(moved.vertices, moved.faces)
        fragments = rasterize(moved.vertices, moved.faces, *view, 12, caster)
        image = antialias(interpolate(fragments, moved.faces, colours), silhouettes(moved, *view, 12, caster))
        return ((image - target) ** 2).sum()

    flat = Mesh(vertices * torch.tensor([0.0, 1, 1]), mesh.faces)
    front = flat.face_vectors()[:, 0] > 0
    mesh = Mesh(mesh.vertices, mesh.faces[front])  # one layer: half of a ball pressed flat
    assert torch.autograd.gradcheck(loss, torch.zeros((), dtype=torch.float64, requires_grad=True), eps=1e-7)


def test_only_what_is_before_hides_and_only_outlines_that_are_seen_move():
    """A small rectangle before a large one: the colours blend, and behind it the large one has no outline."""
    size, view = 32, look(FRONT)
    large, small = rectangle(-0.4, 0.42, -0.4, 0.4), rectangle(-0.21, 0.19, -0.6, 0.2, x=0.5)
    vertices = torch.cat([large.vertices, small.vertices]).requires_grad_()
    mesh = Mesh(vertices, torch.cat([large.faces, small.faces + 4]))
    caster = RayCaster(vertices, mesh.faces)
    fragments = rasterize(vertices, mesh.faces, *view, size, caster)
    colours = torch.cat([torch.full((4, 1), 0.4), torch.ones(4, 1)])
    image = antialias(interpolate(fragments, mesh.faces, colours), silhouettes(mesh, *view, size, caster))[0, :, :, 0]
    # The left side of the small one is at column 16 - 32 * 0.21 = 9.28, its top at row 9.6.
    assert image[16, 8:11].tolist() == pytest.approx([0.4, 0.4 + 0.6 * 0.72, 1.0], abs=1e-3)
    assert image[8:11, 16].tolist() == pytest.approx([0.4, 0.4 + 0.6 * 0.4, 1.0], abs=1e-3)
    assert image[27:30, 6].tolist() == pytest.approx([0.4, 0.4 * 0.8, 0], abs=1e-3), "its own lower side"
    assert image[27:30, 16].tolist() == pytest.approx([1.0] * 3), "which is hidden behind the small one"
    (gradient,) = torch.autograd.grad(image[:, 16].sum(), vertices)
    by_height = gradient[:, 2].view(4, 2).sum(1)  # lower and upper side of the large one, then of the small one
    expected = [0, 0.4 * size * FOCAL / 2.5, 0, 0.6 * size * FOCAL / 2.0]
    assert by_height.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_hidden_side_next_to_an_outline_is_not_taken_for_it():
    """Three layers; the right side of the middle one is hidden in the pixel where that of the first one is seen."""
    size, view = 32, look(FRONT)
    layers = [
        rectangle(-0.45, 0.45, -0.45, 0.45, x=-0.5),
        rectangle(-0.3, 0.18, -0.3, 0.3),
        rectangle(-0.2, 0.19, -0.4, 0.4, x=0.5),
    ]
    vertices = torch.cat([layer.vertices for layer in layers])
    mesh = Mesh(vertices, torch.cat([layer.faces + 4 * i for i, layer in enumerate(layers)]))
    colours = torch.tensor([0.1, 0.5, 1.0]).repeat_interleave(4)[:, None]
    fragments = rasterize(vertices, mesh.faces, *view, size)
    image = antialias(interpolate(fragments, mesh.faces, colours), silhouettes(mesh, *view, size))[0, :, :, 0]
    # Sides at columns 16 + 32 * 0.18 = 21.76 and 16 + 32 * 0.19 = 22.08.
    assert image[16, 20:24].tolist() == pytest.approx([1, 1, 0.1 + 0.9 * 0.08, 0.1], abs=1e-3)


def test_a_constant_image_stays_and_colours_stay_between_their_neighbours():
    size, view, mesh = 32, look(anywhere(3)), ball(20, 0.5, 0.7)
    found = silhouettes(mesh, *view, size)
    assert len(found.first) > 100
    torch.testing.assert_close(
        antialias(torch.full((3, size, size, 2), 0.3), found), torch.full((3, size, size, 2), 0.3)
    )
    image = torch.rand(3, size, size, 1)
    blended = antialias(image, found)
    assert blended.min() >= image.min() and blended.max() <= image.max() and not torch.equal(blended, image)


@pytest.mark.parametrize("distance", [0.2, 0.45, 0.6])
def test_cameras_inside_or_next_to_the_surface_are_no_problem(distance):
    orbit = Orbit(torch.tensor([20.0]), torch.tensor([10.0]), torch.tensor([distance]), torch.tensor([90.0]))
    mesh = ball(10)
    open_mesh = Mesh(mesh.vertices.clone().requires_grad_(), mesh.faces[::2])
    total = coverage(open_mesh, look(orbit), 16).sum()
    total.backward()
    assert total.isfinite() and open_mesh.vertices.grad.isfinite().all()


def test_what_is_behind_the_camera_has_no_outline():
    mesh, matrix = ball(8), FRONT.camera_to_world()
    assert len(silhouettes(mesh, matrix, FRONT.fovy, 16).first) > 10
    turned = matrix @ torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    assert len(silhouettes(mesh, turned, FRONT.fovy, 16).first) == 0


def test_an_empty_mesh_has_no_outline():
    mesh = Mesh(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 3, dtype=torch.long))
    found = silhouettes(mesh, *look(FRONT), 8)
    assert len(found.first) == 0
    image = torch.rand(1, 8, 8, 3)
    assert torch.equal(antialias(image, found), image)
