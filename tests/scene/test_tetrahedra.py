import itertools
import math

import pytest
import torch

from scene.mesh import Mesh
from scene.tetrahedra import DMTet, TetrahedralGrid, crossed_edges, zero_crossings


def volumes(points):
    """Signed volumes (T,) of tetrahedra (T, 4, 3)."""
    return torch.linalg.det(points[:, 1:] - points[:, :1]) / 6


def marching_tetrahedra(positions, sdf, tetrahedra):
    """The zero level of sdf (V,) at positions (V, 3) over all tetrahedra (T, 4), by the definition."""
    edges, faces = crossed_edges(sdf > 0, tetrahedra)
    return Mesh(zero_crossings(positions[edges], sdf[edges]), faces)


def level_set(field, resolution, **box):
    surface = DMTet(resolution, **box)
    surface.initialise(field)
    return surface.extract()


def ball(radius):
    return lambda points: radius - points.norm(dim=-1)


def torus(points):
    return 0.2 - torch.stack([points[:, :2].norm(dim=-1) - 0.5, points[:, 2]], -1).norm(dim=-1)


@pytest.mark.parametrize("resolution", [3, 6])
def test_the_grid_fills_the_cube_without_cracks(resolution):
    """Congruent, positive, all but the pyramids on the cube's faces; a face of only one is on the border."""
    grid = TetrahedralGrid(resolution)
    tetrahedra = grid.tetrahedra()
    volume = volumes(grid.positions(tetrahedra).double())
    cell = (2 / resolution) ** 3
    torch.testing.assert_close(volume, torch.full_like(volume, cell / 12), rtol=1e-5, atol=0)
    assert volume.sum().item() == pytest.approx(8 - resolution**2 * cell, rel=1e-5)
    unused = grid.positions(torch.arange(len(grid))).abs().amin(1) == 1
    assert unused.sum() == 8, "the cube's own corners"
    used = tetrahedra.unique()
    assert torch.equal(used, (~unused).nonzero()[:, 0])
    sides = torch.cat([tetrahedra[:, list(keep)] for keep in itertools.combinations(range(4), 3)]).sort(1).values
    side, count = torch.unique(sides, dim=0, return_counts=True)
    assert set(count.tolist()) == {1, 2}
    border = grid.border()
    assert border[side[count == 1]].all()
    assert torch.equal(side[count == 1].unique(), (border & ~unused).nonzero()[:, 0])


def test_tetrahedra_near_the_surface_are_all_that_straddle_it():
    grid = TetrahedralGrid(5)
    everything = grid.tetrahedra()
    for fraction in (0.02, 0.5, 0.98):
        inside = torch.rand(len(grid)) < fraction
        mixed = inside[everything].float().mean(1) % 1 > 0
        near = {tuple(t) for t in grid.tetrahedra(inside).tolist()}
        assert {tuple(t) for t in everything[mixed].tolist()} <= near <= {tuple(t) for t in everything.tolist()}
    assert len(grid.tetrahedra(torch.zeros(len(grid), dtype=torch.bool))) == 0


@pytest.mark.parametrize("bits", range(1, 15))
def test_triangles_of_one_tetrahedron_lie_on_the_level_and_face_outwards(bits):
    """Reference: a linear function, whose gradient points inwards and whose level is a plane."""
    torch.manual_seed(bits)
    inside = torch.tensor([bool(bits >> i & 1) for i in range(4)])
    points = torch.rand(4, 3, dtype=torch.float64)
    if volumes(points[None]) < 0:
        points[:, 0] *= -1
    sdf = torch.where(inside, 0.1, -0.1) * (1 + 5 * torch.rand(4, dtype=torch.float64))
    gradient = torch.linalg.solve(points[1:] - points[:1], sdf[1:] - sdf[:1])
    mesh = marching_tetrahedra(points, sdf, torch.arange(4)[None])
    count = min(int(inside.sum()), 4 - int(inside.sum()))
    assert mesh.faces.shape == (count, 3) and mesh.vertices.shape == (count + 2, 3)
    level = sdf[0] + (mesh.vertices - points[0]) @ gradient
    torch.testing.assert_close(level, torch.zeros_like(level))
    normals = mesh.face_normals()
    expected = (-gradient / gradient.norm()).expand_as(normals)
    torch.testing.assert_close(normals, expected, atol=1e-6, rtol=0)


def test_spheres_and_tori_are_closed_and_have_their_volume_and_topology():
    errors = []
    for resolution in (12, 24):
        mesh = level_set(ball(0.6), resolution)
        assert mesh.is_watertight
        assert len(mesh.vertices) - len(mesh.edges.ends) + len(mesh.faces) == 2
        errors.append(4 / 3 * math.pi * 0.6**3 - mesh.volume().item())
        assert (mesh.vertices.norm(dim=1) - 0.6).abs().max() < (2 / resolution) ** 2 / (8 * 0.6), "the chord's height"
        assert (mesh.vertex_normals() * mesh.vertices).sum(1).min() > 0.55
    assert errors[1] > 0 and errors[0] / errors[1] == pytest.approx(4, rel=0.2), "second order"
    mesh = level_set(torus, 24)
    assert mesh.is_watertight and len(mesh.vertices) - len(mesh.edges.ends) + len(mesh.faces) == 0
    assert mesh.volume().item() == pytest.approx(2 * math.pi**2 * 0.5 * 0.2**2, rel=0.05)


@pytest.mark.parametrize("kind", ["noise", "integers", "full"])
def test_any_values_give_a_closed_surface(kind):
    """Also exact zeros, which are outside, and objects that fill the box, which the border closes."""
    surface = DMTet(6)
    with torch.no_grad():
        surface.sdf.copy_({"noise": torch.randn, "integers": torch.zeros, "full": torch.ones}[kind](len(surface.sdf)))
        if kind == "integers":
            surface.sdf.copy_(torch.randint(-1, 2, surface.sdf.shape))
        surface.deformation.normal_()
    mesh = surface.extract()
    assert len(mesh.faces) > 100 and mesh.is_watertight
    assert mesh.vertices.isfinite().all() and mesh.vertices.abs().max() < 1
    assert mesh.volume() > 0
    (mesh.vertices.sum() + mesh.normal_consistency() + mesh.laplacian()).backward()
    assert surface.sdf.grad.isfinite().all() and surface.deformation.grad.isfinite().all()


def test_no_deformation_turns_a_tetrahedron_over():
    """A volume is linear in each coordinate, so it is least where all coordinates are at a bound: all cases of one."""
    surface = DMTet(4, low=(-1.0, -0.3, 0.0), high=(1.0, 0.5, 0.4)).double()
    for tetrahedron in surface.grid.tetrahedra()[::41]:
        surface.deformation.data.zero_()
        rest = surface.positions(tetrahedron[None])
        bounds = torch.tensor(list(itertools.product((-20.0, 20.0), repeat=12)), dtype=torch.float64).view(-1, 4, 3)
        surface.deformation.data[tetrahedron] = 20.0
        reach = (surface.positions(tetrahedron[None]) - rest).abs()
        torch.testing.assert_close(reach[0, 0], torch.tensor([2.0, 0.8, 0.4], dtype=torch.float64) / 4 / 5)
        least = volumes(rest + bounds.sign() * reach).min() / volumes(rest)
        assert least.item() == pytest.approx(0.04)


def test_gradients_are_those_of_finite_differences():
    grid = TetrahedralGrid(3)
    positions = grid.positions(torch.arange(len(grid))).double()
    sdf = (0.55 - positions.norm(dim=1)).requires_grad_()
    moved = (positions + 0.02 * torch.randn_like(positions)).requires_grad_()
    tetrahedra = grid.tetrahedra()
    assert torch.autograd.gradcheck(lambda p, s: marching_tetrahedra(p, s, tetrahedra).vertices, (moved, sdf))


def test_a_module_extracts_what_marching_over_all_tetrahedra_gives():
    surface = DMTet(5, low=(-0.5, -1.0, 0.0), high=(0.5, 1.0, 1.0)).double()
    surface.initialise(lambda points: 0.33 - (points - torch.tensor([0.0, 0.1, 0.4])).norm(dim=-1))
    with torch.no_grad():
        surface.deformation.normal_()
    mesh = surface.extract()
    sdf = surface.sdf.masked_fill(surface.grid.border(), -1)
    assert (surface.sdf[surface.grid.border()] > 0).any(), "the border cuts"
    whole = marching_tetrahedra(surface.positions(torch.arange(len(sdf))), sdf, surface.grid.tetrahedra())
    torch.testing.assert_close(mesh.vertices, whole.vertices)
    torch.testing.assert_close(mesh.volume(), whole.volume())
    gradients = [torch.autograd.grad(m.volume(), (surface.sdf, surface.deformation)) for m in (mesh, whole)]
    for one, two in zip(*gradients, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, two)


def test_an_empty_surface_is_an_empty_mesh():
    surface = DMTet(4)
    for value in (0.0, -1.0):
        surface.sdf.data.fill_(value)
        mesh = surface.extract()
        assert mesh.is_empty and mesh.vertices.shape == (0, 3) and mesh.faces.shape == (0, 3)
        (mesh.vertices.sum() + mesh.laplacian() + mesh.normal_consistency() + mesh.volume()).backward()
    edges, faces = crossed_edges(torch.zeros(4, dtype=torch.bool), torch.arange(4)[None])
    assert edges.shape == (0, 2) and faces.shape == (0, 3)


def test_wrong_boxes_and_resolutions_are_named():
    with pytest.raises(ValueError, match="resolution is 2"):
        DMTet(2)
    with pytest.raises(ValueError, match="box from"):
        DMTet(4, low=(0.0, 0.0, 0.0), high=(1.0, 0.0, 1.0))


def test_a_saved_surface_is_the_same_surface():
    surface = DMTet(6, low=(-0.5, -0.6, -0.7), high=(0.5, 0.6, 0.7))
    surface.initialise(ball(0.4))
    other = DMTet(6)
    other.load_state_dict(surface.state_dict())
    torch.testing.assert_close(other.extract().vertices, surface.extract().vertices)
    assert sorted(surface.state_dict()) == ["deformation", "high", "low", "sdf"]
