"""nerfacc's CUDA kernels against the torch lattice; without a GPU, what is passed to them and taken from them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scene import compositing, hashgrid, marching, nerfacc_kernels, volume_rendering
from scene.cameras import pixel_rays, turntable
from scene.hashgrid import HashGrid
from scene.marching import enter_cube
from scene.radiance_field import RadianceField
from scene.volume_rendering import VolumeRenderer


class OnCuda(torch.Tensor):
    """A tensor of the CPU that says it is on CUDA."""

    is_cuda = True


class Kernels:
    """In the place of nerfacc's compiled functions, one ray and one step after the other."""

    summed: set = set()

    @staticmethod
    def ray_aabb_intersect(origins, directions, boxes, near, far, miss):
        enter, leave = enter_cube(origins, directions, boxes[0, 3].item())
        hit = enter < leave
        return *(torch.where(hit, t, miss)[:, None] for t in (enter, leave)), hit[:, None]

    @staticmethod
    def traverse_grids(origins, directions, mask, grid, boxes, planes, order, hits, near, far, step, *rest):
        assert rest == (0.0, True, True, True, -1, False)
        half, cells = boxes[0, 3].item(), grid.shape[1]
        edges, counts = [], []
        for r in range(len(origins)):
            t, dt, before = np.float32(near[r]), np.float32(step), len(edges)
            while hits[r, 0] and t + dt / 2 < planes[r, 1]:  # adds up in float32, as the kernel does
                cell = ((origins[r] + (t + dt / 2) * directions[r]) / (2 * half) + 0.5) * cells
                if t + dt / 2 >= planes[r, 0] and grid[0][tuple(cell.long().clamp(0, cells - 1))]:
                    edges.append((r, t))
                t += dt
            counts.append(len(edges) - before)
        count, ray = torch.tensor(counts), torch.tensor([r for r, _ in edges], dtype=torch.long).as_subclass(OnCuda)
        start = torch.tensor([t for _, t in edges])
        left = torch.tensor([True, False]).repeat(len(edges))
        pairs = torch.stack([start, start + step], 1).flatten()
        common = {"chunk_starts": count.cumsum(0) - count, "chunk_cnts": count, "is_valid": None}
        intervals = SimpleNamespace(vals=pairs, is_left=left, is_right=~left, ray_indices=None, **common)
        return intervals, SimpleNamespace(vals=start, ray_indices=ray, **common), None

    @staticmethod
    def exclusive_sum(starts, counts, values, normalize, backward):
        Kernels.summed.add(backward)
        rows = [values[a : a + n] for a, n in zip(starts.tolist(), counts.tolist(), strict=True)]
        rows = [row.flip(0).cumsum(0).flip(0) - row if backward else row.cumsum(0) - row for row in rows]
        return torch.cat(rows)


@pytest.fixture
def compiled(monkeypatch):
    """Sets what nerfacc's compilation gives, as in a new process."""
    pytest.importorskip("nerfacc")

    def set_to(backend):
        nerfacc_kernels.missing_kernels.cache_clear()
        monkeypatch.setitem(sys.modules, "nerfacc.cuda._backend", backend)

    yield set_to
    nerfacc_kernels.missing_kernels.cache_clear()


def failing(error):
    class Backend:
        @property
        def _C(self):  # noqa: N802
            raise error

    return Backend()


LOG = "Error building extension: [1/5] nvcc\nFAILED: grid.o\na.cuh(9): error: lerp is there\nb.cuh: error: 2"


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (SimpleNamespace(_C=None), "torch lattice (nerfacc finds no nvcc)"),
        (failing(RuntimeError(LOG)), "torch lattice (RuntimeError: a.cuh(9): error: lerp is there)"),
        (failing(OSError("CUDA_HOME is not set")), "torch lattice (OSError: CUDA_HOME is not set)"),
        (failing(ImportError("")), "torch lattice (ImportError: )"),
        (SimpleNamespace(_C=Kernels), "nerfacc"),
    ],
)
def test_the_backend_is_named_with_the_reason(compiled, backend, said):
    compiled(None)
    assert volume_rendering.backend(torch.device("cpu")) == "torch lattice"
    compiled(backend)
    assert volume_rendering.backend(torch.device("cuda")) == said
    sys.modules["nerfacc.cuda._backend"] = SimpleNamespace(_C=None)
    assert volume_rendering.backend(torch.device("cuda", 0)) == said, "it is chosen once"


def small_render(device="cpu", kind=torch.Tensor):
    """A renderer whose rays are of a kind of tensor, what it samples and renders, and the field's gradients."""
    torch.manual_seed(0)
    encoding = HashGrid(3, 2, 9, 4, 1.7)
    encoding.params.data.normal_()
    field = RadianceField(encoding, bound=0.6, hidden=8).to(device)
    renderer = VolumeRenderer(bound=0.6, resolution=4, samples=40)
    renderer.occupancy.binaries.copy_(torch.rand(1, 4, 4, 4) < 0.5)
    camera = turntable(1, elevation=20, distance=2.5)
    lines = pixel_rays(camera.camera_to_world(), camera.fovy, 8)
    given = [x.to(device).as_subclass(kind) for x in (*lines, torch.rand(64))]
    renderer = renderer.to(device)
    samples = renderer.march(*given)
    out = renderer(field, *given)
    parts = [out.rgb, out.opacity, out.depth]
    sum(part.square().sum() for part in parts).backward()
    return renderer, given, samples, [*parts, *(p.grad for p in field.parameters())]


def test_nerfaccs_kernels_give_the_same_samples_and_render(compiled, monkeypatch):
    monkeypatch.setattr(hashgrid, "bindings", lambda: (None, ""))
    _, _, samples, results = small_render()
    compiled(SimpleNamespace(_C=None))
    assert all(torch.equal(a, b) for a, b in zip(small_render(kind=OnCuda)[3], results, strict=True))
    monkeypatch.setattr(marching, "march", None)
    monkeypatch.setattr(compositing, "composite", None)
    compiled(SimpleNamespace(_C=Kernels))
    monkeypatch.setattr(Kernels, "summed", set())
    renderer, given, found, others = small_render(kind=OnCuda)
    assert Kernels.summed == {False, True}, "compositing and its gradient are nerfacc's, too"
    assert len(samples[0]) > 400 and torch.equal(found[0], samples[0]) and found[2] == samples[2]
    assert torch.equal(found[1], samples[1]), "the drift of added steps is taken out"
    for ours, theirs in zip(others, results, strict=True):
        torch.testing.assert_close(
            ours.as_subclass(torch.Tensor), theirs.as_subclass(torch.Tensor), rtol=1e-4, atol=1e-5
        )
    renderer.max_samples = 200
    ray, start, step = renderer.march(*given)
    assert 50 < len(ray) <= 200 and step > renderer.step
    k = (start - given[2][ray] * step) / step
    torch.testing.assert_close(k, k.round(), atol=1e-3, rtol=0)
    assert len(renderer.march(given[0], given[1])[0]) <= 200, "without jitter"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fast", [False, True], ids=["torch", "kernels"])
def test_cuda_renders_what_the_cpu_renders(monkeypatch, fast):
    """In fp32, with whatever of tinycudann and nerfacc's kernels is there; without them by torch."""
    _, _, samples, results = small_render()
    if fast:
        why = volume_rendering.missing_kernels()
        if why and hashgrid.bindings()[0] is None:
            pytest.skip(why)
    else:
        monkeypatch.setattr(volume_rendering, "missing_kernels", lambda: "off")
        monkeypatch.setattr(hashgrid, "bindings", lambda: (None, "off"))
    _, _, found, others = small_render("cuda")
    ours, theirs = (
        set(zip(s[0].tolist(), s[1].cpu().mul(1e4).round().tolist(), strict=True)) for s in (samples, found)
    )
    assert len(ours ^ theirs) < 0.01 * len(ours), "only rounding at a face may differ"
    for ours, theirs in zip(results, others, strict=True):
        far = (ours - theirs.cpu()).abs() > 1e-3 + 1e-2 * ours.abs()
        assert far.float().mean() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nerfaccs_packed_weights_are_those_of_padded_rays():
    if why := volume_rendering.missing_kernels():
        pytest.skip(why)
    ray = torch.arange(500, device="cuda").repeat_interleave(torch.randint(0, 90, (500,), device="cuda"))
    density = (torch.rand(len(ray), device="cuda") * 4).requires_grad_(True)
    weight, results = torch.randn(len(ray), device="cuda"), []
    for module in (compositing, nerfacc_kernels):
        weights = module.composite(density, ray, 0.05, 500)
        results.append([weights, *torch.autograd.grad((weights * weight).sum(), density)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
