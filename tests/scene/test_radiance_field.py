"""Fields: the initial densities, the dense grid, normals."""

import pytest
import torch

from scene.radiance_field import DenseGrid, RadianceField, initial_density


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


def test_a_linear_decoder_and_noise_before_the_activation():
    field, points, noise = RadianceField(DenseGrid(), hidden=0), torch.rand(20, 3) - 0.5, torch.randn(20)
    assert [tuple(p.shape) for p in field.network.parameters()] == [(4, 16), (4,)]
    raw = field.encoding(points / 2 + 0.5) @ field.network[0].weight.T + field.network[0].bias
    density, albedo = field(points, noise)
    blob = 10 * (1 - points.norm(dim=1) / 0.5)
    torch.testing.assert_close(density, torch.log1p(torch.exp(raw[:, 0] + noise + blob)))
    torch.testing.assert_close(albedo, 1 / (1 + torch.exp(-raw[:, 1:])))
    torch.testing.assert_close(field.density(points), torch.log1p(torch.exp(raw[:, 0] + blob)))
