"""Weights of samples: a loop over them as the reference, and nerfacc's dense function where it is installed."""

import math

import pytest
import torch

from scene.compositing import composite


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


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_weights_and_gradients_equal_nerfaccs(kind):
    nerfacc = pytest.importorskip("nerfacc")
    counts = torch.randint(0, 40, (60,))
    ray, longest, step = torch.arange(60).repeat_interleave(counts), int(counts.max()), 0.031
    density = (torch.rand(len(ray), dtype=kind) * 9).requires_grad_(True)
    weights = composite(density, ray, step, 60)
    padded = torch.zeros(60, longest, dtype=kind).requires_grad_(True)
    inside = torch.arange(longest) < counts[:, None]  # row by row, as the samples are
    padded.data[inside] = density.detach()
    edges = torch.arange(longest, dtype=kind).expand(60, -1) * step
    expected = nerfacc.render_weight_from_density(edges, edges + step, padded)[0][inside]
    assert torch.equal(weights, expected)
    cotangent = torch.randn_like(weights)
    (ours,) = torch.autograd.grad(weights, density, cotangent)
    (theirs,) = torch.autograd.grad(expected, padded, cotangent)
    assert torch.equal(ours, theirs[inside])


def test_a_rays_weights_add_up_to_its_opacity():
    ray = torch.arange(30).repeat_interleave(torch.randint(1, 20, (30,)))
    density = torch.rand(len(ray), dtype=torch.float64) * 5
    total = torch.zeros(30, dtype=torch.float64).index_add(0, ray, composite(density, ray, 0.1, 30))
    mass = torch.zeros(30, dtype=torch.float64).index_add(0, ray, density)
    torch.testing.assert_close(total, 1 - torch.exp(-0.1 * mass))
