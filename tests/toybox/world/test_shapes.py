import math

import pytest
import torch

from scene.cameras import Orbit
from toybox.world.builder import BODY
from toybox.world.objects import OBJECTS, build, stack
from toybox.world.render import render
from toybox.world.shapes import BLOCK, ELLIPSOID, FRUSTUM, MISS, Solids, intersect, normals


def solid(kind, matrix=None, taper=(1.0, 1.0)):
    matrix = torch.eye(3, 4) if matrix is None else matrix
    return Solids((kind,), matrix[None, None], torch.tensor([[taper]]), torch.ones(1, 1, 3), (BODY,))


def inside(kind, p, taper):
    """The definition of the unit shapes, straight from the module's docstring."""
    x, y, z = p.unbind(-1)
    if kind == ELLIPSOID:
        return x**2 + y**2 + z**2 <= 1
    reach = [1 + (t - 1) * (z + 1) / 2 for t in taper]
    if kind == FRUSTUM:
        return (z.abs() <= 1) & (x**2 + y**2 <= reach[0] ** 2)
    return (z.abs() <= 1) & (x.abs() <= reach[0]) & (y.abs() <= reach[1])


@pytest.mark.parametrize("kind", [ELLIPSOID, FRUSTUM, BLOCK])
@pytest.mark.parametrize("taper", [(1.0, 1.0), (0.3, 0.3), (0.0, 1.0), (0.6, 0.1)])
def test_hits_agree_with_marching_along_the_ray(kind, taper):
    """Reference: small steps along each ray until the shape's definition holds."""
    if kind == FRUSTUM:
        taper = (taper[0], taper[0])
    matrix = torch.cat(
        [torch.linalg.qr(torch.randn(3, 3)).Q * torch.tensor([1.0, 0.7, 1.4]), 0.2 * torch.randn(3, 1)], 1
    )
    origin = torch.tensor([[0.3, -4.0, 1.5]])
    aims = torch.randn(1, 400, 3) * 0.8
    directions = torch.nn.functional.normalize(aims - origin[:, None], dim=-1)
    t, _ = intersect(solid(kind, matrix, taper), origin, directions)

    steps = torch.arange(0, 8, 0.002)
    points = origin[:, None] + steps[:, None, None] * directions[0]  # (T, R, 3)
    local = points @ matrix[:, :3].T + matrix[:, 3]
    held = inside(kind, local, taper)
    first = torch.where(held.any(0), steps[held.to(torch.uint8).argmax(0)], torch.tensor(MISS))
    both = (t[0] < MISS) & (first < MISS)
    assert both.sum() > 100
    assert ((t[0] < MISS) != (first < MISS)).sum() <= 2, "only a grazing ray may slip between two steps"
    deviation = (t[0] - first).abs()[both]
    assert deviation.median() < 0.003 and (deviation < 0.01).float().mean() > 0.97


@pytest.mark.parametrize("kind", [ELLIPSOID, FRUSTUM, BLOCK])
def test_normals_are_the_gradient_of_the_surface(kind):
    """The depth field of three neighbouring rays spans the tangent plane, which the normal must be orthogonal to."""
    matrix = torch.cat([torch.linalg.qr(torch.randn(3, 3)).Q * torch.tensor([1.0, 0.7, 1.4]), torch.zeros(3, 1)], 1)
    shape = solid(kind, matrix, (0.5, 0.5))
    origin = torch.tensor([[0.5, -4.0, 1.0]])
    base = torch.nn.functional.normalize(torch.randn(1, 300, 3) * 0.4 - origin[:, None], dim=-1)
    points = []
    for shift in torch.tensor([[0.0, 0, 0], [3e-3, 0, 0], [0, 0, 3e-3]]):
        d = torch.nn.functional.normalize(base + shift, dim=-1)
        t, index = intersect(shape, origin, d)
        points.append(origin[:, None] + t[..., None] * d)
    hit = torch.isfinite(points[0]).all(-1) & torch.isfinite(points[1]).all(-1) & torch.isfinite(points[2]).all(-1)
    n = normals(shape, torch.nan_to_num(points[0], posinf=0, neginf=0), index)[hit]
    tangents = [torch.nn.functional.normalize(p[hit] - points[0][hit], dim=-1) for p in points[1:]]
    along = torch.stack([(n * tangent).sum(-1).abs() for tangent in tangents]).amax(0)
    assert hit.sum() > 100
    assert (along < 0.02).float().mean() > 0.9, "all but the rays across an edge"
    assert ((n * base[0][hit[0]]).sum(-1) < 0).all(), "normals point at the viewer"


def test_a_sphere_covers_its_projected_area():
    """Closed form: a sphere of radius r at distance d covers a disc of radius f r / sqrt(d^2 - r^2)."""
    r, d = 0.5, 2.5
    sphere = solid(ELLIPSOID, torch.cat([torch.eye(3) / r, torch.zeros(3, 1)], 1))
    camera = Orbit(torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([d]), torch.tensor([40.0]))
    out = render(sphere, camera, 64)
    focal = 32 / math.tan(math.radians(20))
    area = math.pi * (focal * r) ** 2 / (d**2 - r**2)
    assert out.alpha.sum().item() == pytest.approx(area, rel=0.005)
    assert out.depth[0, 32, 32].item() == pytest.approx(d - r, rel=1e-3)
    towards = torch.nn.functional.normalize(camera.positions()[0], dim=0)
    torch.testing.assert_close(out.normal[0, 31:33, 31:33].mean((0, 1)), towards, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", OBJECTS)
def test_renders_are_premultiplied_and_stay_in_the_picture(name):
    count = 6
    solids = stack([build(name, "green", s) for s in range(count)])
    cameras = Orbit(
        torch.arange(count) * 60.0,
        torch.arange(count) * 15.0 - 10,
        torch.full((count,), 2.5),
        torch.full((count,), 42.0),
    )
    out = render(solids, cameras)
    assert 0.05 < out.alpha.mean() < 0.6
    assert (out.rgb <= out.alpha + 1e-5).all() and out.rgb.min() >= 0 and out.alpha.max() <= 1 + 1e-6
    assert (out.normal.norm(dim=-1, keepdim=True) <= out.alpha + 1e-5).all()
    seen = out.alpha[..., 0] > 0.999
    assert ((out.depth[..., 0][seen] > 1.0) & (out.depth[..., 0][seen] < 3.2)).all()
    torch.testing.assert_close(out.over(torch.ones(3)), out.rgb + 1 - out.alpha)
    border = torch.cat([out.alpha[:, 0], out.alpha[:, -1], out.alpha[:, :, 0], out.alpha[:, :, -1]], 1)
    assert border.max() == 0, "a far camera shows the whole object"
