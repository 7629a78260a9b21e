"""The regularisers, each computed anew from its formula."""

import math

import pytest
import torch

from lightning_modules.regularisers import Regularisers
from scene.marching import enter_cube
from scene.volume_rendering import VolumeRender, VolumeRenderer

OFF = {"entropy": 0.0}


def render(rays=5, longest=9):
    """A render with random samples, two rays of it empty or almost so, and where its rays enter and leave."""
    counts = torch.tensor([longest, 0, 3, 1, 7][:rays])
    ray = torch.arange(rays).repeat_interleave(counts)
    enter, leave = 0.5 + torch.rand(rays), 2.5 + torch.rand(rays)
    place = torch.cat([torch.rand(n).sort().values for n in counts])
    distance = enter[ray] + place * (leave - enter)[ray]
    weights = torch.rand(len(ray)) / counts[ray]
    opacity = torch.zeros(rays).index_add(0, ray, weights)[:, None]
    depth = torch.zeros(rays).index_add(0, ray, weights * distance)[:, None]
    return VolumeRender(torch.zeros(rays, 3), opacity, depth, None, weights, ray, distance), (enter, leave)


def bits(p):
    p = min(max(p, 1e-5), 1 - 1e-5)
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def test_empty_and_opaque_are_preferred():
    losses = Regularisers(opaque=1.0, opaque_from=0, entropy=1.0)

    def penalty(value):
        opacity, weights = torch.full((4, 1), value), torch.full((6,), value)
        return losses.penalty(VolumeRender(None, opacity, None, None, weights, None, None), 5, (None, None))

    half, full, none = (penalty(v) for v in (0.5, 1.0, 0.0))
    assert half.item() == pytest.approx(0.6931 + 1, abs=1e-3), "one half: ln 2 nats of opacity, 1 bit of weights"
    assert full < 0.01 and none < 0.01


def test_threestudios_terms():
    losses = Regularisers(sparsity=10.0, sparsity_until=25_000, opaque=1000.0, opaque_from=10_000, **OFF)
    out, span = render()
    sparsity = 10 * sum(math.sqrt(o**2 + 0.01) for o in out.opacity[:, 0].tolist()) / 5
    opaque = 1000 * sum(bits(o) * math.log(2) for o in out.opacity[:, 0].tolist()) / 5
    assert losses.penalty(out, 9_999, span).item() == pytest.approx(sparsity, rel=1e-5)
    assert losses.penalty(out, 10_000, span).item() == pytest.approx(sparsity + opaque, rel=1e-5)
    assert losses.penalty(out, 25_000, span).item() == pytest.approx(opaque, rel=1e-5)
    ends = Regularisers(sparsity=10.0, opaque_from=3, **OFF)
    assert ends.penalty(out, 2, span) > 0 and ends.penalty(out, 3, span) == 0, "without a step of its own"


def test_z_variance_is_that_of_the_solid_rays():
    out, span = render()
    out.opacity[0], out.depth[0] = 0.9, 0.9 / out.opacity[0] * out.depth[0]
    out.weights[out.ray == 0] *= 0.9 / out.weights[out.ray == 0].sum()
    expected = []
    for ray in (out.opacity[:, 0] > 0.5).nonzero()[:, 0]:
        w, t = out.weights[out.ray == ray], out.distance[out.ray == ray]
        mean = (w * t).sum() / w.sum()
        expected.append(((w * (t - mean) ** 2).sum() / w.sum()).item())
    assert len(expected) in range(1, 5), "some rays are solid, some are not"
    found = Regularisers(z_variance=3.0, **OFF).penalty(out, 0, span)
    assert found.item() == pytest.approx(3 * sum(expected) / len(expected), rel=1e-4)
    out.opacity.zero_()
    assert Regularisers(z_variance=3.0, **OFF).penalty(out, 0, span) == 0


def test_the_entropy_is_that_of_merged_intervals():
    out, (enter, leave) = render()
    total = 0.0
    for ray in range(5):
        edges = [enter[ray] + (leave[ray] - enter[ray]) * k / 4 for k in range(5)]
        for low, high in zip(edges, edges[1:], strict=False):
            weight = out.weights[(out.ray == ray) & (out.distance >= low) & (out.distance < high)].sum().item()
            total += bits(weight) if weight else 0.0
    found = Regularisers(entropy=10.0, entropy_bins=4).penalty(out, 0, (enter, leave))
    assert found.item() == pytest.approx(10 * total / (5 * 4), rel=1e-4)


class Fog(torch.nn.Module):
    def __init__(self, density):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(density))

    def density(self, points):
        return self.value.expand(len(points))

    def forward(self, points):
        return self.density(points), torch.ones_like(points)


def authors_entropy(density, enter, leave):
    """The published loss: 64 even samples of a ray, 32 more where those are heavy, the mean entropy of all 96."""
    even = enter[:, None] + (leave - enter)[:, None] * torch.linspace(0, 1, 64)  # (R, 64)
    last = (leave - enter)[:, None] / 64

    def weigh(t):
        lengths = torch.cat([t[:, 1:] - t[:, :-1], last], 1)
        alpha = 1 - torch.exp(-lengths * density)
        seen = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha + 1e-15).cumprod(1)[:, :-1]], 1)
        return alpha * seen

    middles = (even[:, 1:] + even[:, :-1]) / 2
    mass = weigh(even).detach()[:, 1:-1] + 1e-5
    cumulative = torch.cat([torch.zeros(len(even), 1), (mass / mass.sum(1, keepdim=True)).cumsum(1)], 1)
    wanted = ((torch.arange(32) + 0.5) / 32).expand(len(even), 32).contiguous()
    upper = torch.searchsorted(cumulative, wanted, right=True).clamp(1, 62)
    low, high = cumulative.gather(1, upper - 1), cumulative.gather(1, upper)
    near, far = middles.gather(1, upper - 1), middles.gather(1, upper)
    more = near + (wanted - low) / (high - low).clamp(min=1e-5) * (far - near)
    p = weigh(torch.cat([even, more], 1).sort(1).values).clamp(1e-5, 1 - 1e-5)  # (R, 96)
    return (-p * p.log2() - (1 - p) * (1 - p).log2()).mean()


@pytest.mark.parametrize("samples", [256, 512])
@pytest.mark.parametrize("density", [0.02, 0.2, 1.0])
def test_fog_costs_what_it_costs_the_authors(density, samples):
    directions = torch.nn.functional.normalize(torch.randn(40, 3), dim=1)
    origins = -1.3 * directions + 0.1 * torch.randn(40, 3)
    span = enter_cube(origins, directions, 1.0)
    fog = Fog(density)
    out = VolumeRenderer(1.0, 4, samples)(fog, origins, directions)
    ours = Regularisers(entropy=1.0, entropy_bins=96).penalty(out, 0, span)
    theirs = authors_entropy(fog.value, span[0].clamp(min=0.1), span[1])
    assert ours.item() == pytest.approx(theirs.item(), rel=0.06)
    slopes = [torch.autograd.grad(loss, fog.value, retain_graph=True)[0].item() for loss in (ours, theirs)]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.16)
    lattice = Regularisers(entropy=1.0).penalty(out, 0, span)
    assert lattice < 0.8 * theirs, "the mean over the lattice is weaker, the finer it is"
    if samples == 512:
        assert lattice < 0.5 * theirs
