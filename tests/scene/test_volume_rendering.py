import math

import pytest
import torch

from scene.cameras import pixel_rays, turntable
from scene.radiance_field import DenseGrid, RadianceField, initial_density
from scene.volume_rendering import VolumeRenderer, composite, enter_box


class Uniform(torch.nn.Module):
    """A field of one density and albedo everywhere."""

    def __init__(self, sigma, albedo=(0.2, 0.5, 0.9)):
        super().__init__()
        self.sigma, self.albedo = sigma, torch.tensor(albedo)

    def density(self, points):
        return torch.full((len(points),), float(self.sigma))

    def forward(self, points):
        return self.density(points), self.albedo.expand(len(points), 3)


def camera_rays(size=16):
    camera = turntable(1, elevation=20, distance=2.5)
    return pixel_rays(camera.camera_to_world(), camera.fovy, size)


def test_fog_of_one_density_attenuates_as_beer_and_lambert_say():
    """Closed form: opacity 1 - exp(-sigma L) over the length L inside the cube, colour opacity times albedo."""
    origins, directions = camera_rays()
    enter, leave = enter_box(origins, directions, 0.5)
    length = (leave - enter).clamp(min=0)
    out = VolumeRenderer(bound=0.5, samples=512)(Uniform(1.3), origins, directions)
    expected = 1 - torch.exp(-1.3 * length)
    torch.testing.assert_close(out.opacity[:, 0], expected, atol=4e-3, rtol=0)
    torch.testing.assert_close(out.rgb, out.opacity * torch.tensor([0.2, 0.5, 0.9]))
    assert (length == 0).any() and (out.opacity[length == 0] == 0).all()


def test_a_wall_of_high_density_is_seen_at_its_distance():
    origins, directions = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]])
    out = VolumeRenderer(bound=0.5, samples=1024)(Uniform(1e4), origins, directions)
    assert out.opacity.item() == pytest.approx(1, abs=1e-5) and out.depth.item() == pytest.approx(1.5, abs=2e-3)


def test_weights_agree_with_a_loop_over_samples():
    torch.manual_seed(1)
    density, step = torch.rand(9, dtype=torch.float64) * 4, 0.2
    ray = torch.tensor([0, 0, 0, 0, 2, 2, 3, 3, 3])
    expected, transmittance, last = [], 1.0, -1
    for sigma, r in zip(density.tolist(), ray.tolist(), strict=True):
        transmittance = 1.0 if r != last else transmittance
        last = r
        expected.append(transmittance * (1 - math.exp(-sigma * step)))
        transmittance *= math.exp(-sigma * step)
    torch.testing.assert_close(composite(density, ray, step, 5), torch.tensor(expected, dtype=torch.float64))
    assert composite(density[:0], ray[:0], step, 5).shape == (0,)
    density.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda d: composite(d, ray, step, 5), density)


def test_marching_follows_nerfaccs_rule():
    """Reference: walk the lattice of one ray at a time and test each midpoint."""
    renderer = VolumeRenderer(bound=0.6, resolution=4, samples=40)
    renderer.occupancy.binaries.copy_(torch.rand(1, 4, 4, 4) < 0.5)
    origins, directions = camera_rays(6)
    jitter = torch.rand(len(origins))
    ray, start, step = renderer.march(origins, directions, jitter)
    found = set()
    for r in range(len(origins)):
        enter, leave = (float(v) for v in enter_box(origins[r : r + 1], directions[r : r + 1], 0.6))
        for k in range(200):
            t = float(jitter[r]) * step + k * step
            point = origins[r] + (t + step / 2) * directions[r]
            cell = ((point / 1.2 + 0.5) * 4).floor().long()
            if enter <= t + step / 2 < leave and renderer.occupancy.binaries[0][tuple(cell.clamp(0, 3))]:
                found.add((r, k))
    ours = {(int(r), round((float(t) / step) - float(jitter[r]))) for r, t in zip(ray, start, strict=True)}
    assert len(found ^ ours) <= 2 and len(found) > 50, "only rounding at a face may differ"
    assert (ray.diff() >= 0).all() and (start.diff()[ray.diff() == 0] > 0).all()


def test_fog_makes_the_lattice_coarser_and_never_larger():
    origins, directions = camera_rays(32)
    full = VolumeRenderer(samples=128)
    bounded = VolumeRenderer(samples=128, max_samples=5000)
    assert len(full.march(origins, directions)[0]) > 10_000
    ray, _, step = bounded.march(origins, directions)
    assert len(ray) <= 5000 and step > bounded.step
    thin = bounded(Uniform(0.05), origins, directions).opacity
    torch.testing.assert_close(thin, full(Uniform(0.05), origins, directions).opacity, atol=0.03, rtol=0)


def test_the_occupancy_grid_learns_where_the_field_is_empty():
    torch.manual_seed(0)
    field = RadianceField(DenseGrid((8, 16)), initialisation="object")
    renderer = VolumeRenderer(resolution=16, threshold=1e-3)
    origins, directions = camera_rays()
    before = renderer(field, origins, directions)
    for step in range(0, 64):
        renderer.update(step, field)
    after = renderer(field, origins, directions)
    assert len(after.ray) < 0.6 * len(before.ray), "the corners of the cube are empty"
    torch.testing.assert_close(after.opacity, before.opacity, atol=0.02, rtol=0)
    state = {k: v.clone() for k, v in renderer.state_dict().items()}
    other = VolumeRenderer(resolution=16)
    other.load_state_dict(state)
    assert torch.equal(other.march(origins, directions)[0], renderer.march(origins, directions)[0])


def test_an_empty_field_renders_nothing_and_keeps_its_gradient_path():
    renderer = VolumeRenderer()
    renderer.occupancy.binaries.fill_(False)
    field = RadianceField(DenseGrid((8,)))
    out = renderer(field, *camera_rays(), normals=True)
    assert out.opacity.abs().max() == 0 and out.normal.shape == (256, 3)
    (out.rgb.sum() + out.depth.sum()).backward()


def test_initial_densities():
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [5 / 6, 0, 0], [2.5, 0, 0]])
    assert initial_density(points, "object").tolist() == pytest.approx([10, 0, -20 / 3, -40], abs=1e-4)
    assert initial_density(points, "scene").tolist() == pytest.approx([-10, -8, -20 / 3, 0], abs=1e-4)
    assert initial_density(points, "object-in-scene").tolist() == pytest.approx([10, 0, -20 / 3, 0], abs=1e-4)
    assert initial_density(points, "none").abs().max() == 0


def test_a_dense_grid_reproduces_linear_functions():
    grid = DenseGrid((5, 9), features=2)
    for level in grid.grids:
        axis = torch.linspace(0, 1, level.shape[-1])
        x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
        level.data[0, 0], level.data[0, 1] = x + 2 * y, y - 3 * z
    p = torch.rand(40, 3)
    x, y, z = p.unbind(1)
    expected = torch.stack([x + 2 * y, y - 3 * z], 1).repeat(1, 2)
    torch.testing.assert_close(grid(p), expected, atol=1e-5, rtol=1e-5)


def test_a_fields_normals_point_out_of_the_blob():
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(30, 3), dim=1) * 0.4
    normals = RadianceField(DenseGrid()).normals(points)
    torch.testing.assert_close(normals, torch.nn.functional.normalize(points, dim=1), atol=0.05, rtol=0)
