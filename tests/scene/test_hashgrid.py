import copy
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from scene import hash_encoding, hashgrid
from scene.hash_encoding import PRIMES, corner_weights, grid_levels
from scene.hashgrid import HashGrid

SMALL = {"levels_count": 4, "features": 2, "log2_hashmap_size": 9, "base_resolution": 4, "per_level_scale": 1.7}


def scalar_reference(grid, point):
    """Straight from the layout's description, one point and one corner at a time, in Python integers."""
    table = grid.params.detach().view(-1, grid.features)
    out = []
    for level in grid.levels:
        position = [float(torch.tensor(float(x) * level.scale + 0.5, dtype=torch.float32)) for x in point]
        base = [math.floor(p) for p in position]
        total = torch.zeros(grid.features, dtype=torch.float64)
        for corner in range(8):
            weight, at = 1.0, []
            for d in range(3):
                bit = corner >> d & 1
                inside = position[d] - base[d]
                if grid.interpolation == "smoothstep":
                    inside = 3 * inside**2 - 2 * inside**3
                weight *= inside if bit else 1 - inside
                at.append((base[d] + bit) % 2**32)
            if level.resolution**3 <= level.entries:
                index = at[0] + at[1] * level.resolution + at[2] * level.resolution**2
                index %= 2**32
            else:
                index = (at[0] * PRIMES[0]) % 2**32 ^ (at[1] * PRIMES[1]) % 2**32 ^ (at[2] * PRIMES[2]) % 2**32
            total += weight * table[level.offset + index % level.entries].double()
        out.append(total)
    return torch.cat(out).float()


def test_the_default_layout_has_the_known_sizes():
    """Totals that tiny-cuda-nn users publish for these two configurations."""
    levels = grid_levels(16, 19, 16, 1.447269237440378)
    assert [level.resolution for level in levels] == [
        16, 24, 34, 49, 71, 102, 148, 213, 308, 446, 646, 934, 1352, 1956, 2831, 4096
    ]  # fmt: skip
    assert 2 * sum(level.entries for level in levels) == 12_599_920
    assert 2 * sum(level.entries for level in grid_levels(16, 19, 16, 2 ** (7 / 15))) == 12_196_240
    assert [level.hashed for level in levels] == [False] * 5 + [True] * 11


def test_the_authors_grid_has_its_published_size():
    """Levels of r + 1 vertices an axis, r = ceil(16 (2048 / 16)^(l / 15)), at most 2^19, in multiples of 8."""
    entries = [min(2**19, math.ceil((math.ceil(16 * 128 ** (i / 15)) + 1) ** 3 / 8) * 8) for i in range(16)]
    levels = grid_levels(16, 19, 16, 128 ** (1 / 15), padded=True)
    assert [level.entries for level in levels] == entries and levels[-1].resolution == 2048 + 1
    assert 2 * sum(entries) == 12_239_728


def test_a_padded_level_never_wraps():
    """Its first table holds the vertices in a row, the far corner of the cube included."""
    grid = HashGrid(**SMALL, padded=True)
    level = grid.levels[0]
    grid.params.data.copy_(torch.arange(len(grid.params)).float())
    index = hash_encoding.corner_indices(level, hash_encoding.cell(level, torch.ones(3, 1))[0]).flatten()
    x, y, z = torch.meshgrid(*[torch.arange(3, 5)] * 3, indexing="ij")
    assert sorted(index.tolist()) == sorted((x + 5 * y + 25 * z).flatten().tolist()) and level.resolution == 5


KINDS = [("linear", False), ("smoothstep", False), ("linear", True), ("smoothstep", True)]


@pytest.mark.parametrize(("interpolation", "padded"), KINDS)
def test_features_agree_with_a_scalar_transcription_of_the_layout(interpolation, padded):
    grid = HashGrid(**SMALL, interpolation=interpolation, padded=padded)
    grid.params.data.normal_()
    assert [level.hashed for level in grid.levels] == [False, False, True, True]
    edge = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.5], [-0.3, 1.2, 0.5], [-0.4, -0.2, 0.05], [0.999, 0.5, 0]])
    points = torch.cat([edge, torch.rand(60, 3)])
    expected = torch.stack([scalar_reference(grid, p) for p in points])
    torch.testing.assert_close(grid(points), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("interpolation", "padded"), KINDS[:2] + KINDS[3:])
def test_gradients_are_those_of_finite_differences(interpolation, padded):
    grid = HashGrid(**SMALL, interpolation=interpolation, padded=padded).double()
    grid.params.data.normal_()
    points = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grid, points, eps=1e-7, atol=1e-5)
    fixed = points.detach()
    weight = torch.randn(6, grid.width, dtype=torch.float64)
    (grid(fixed) * weight).sum().backward()
    used = grid.params.grad.nonzero()[:, 0]
    for i in used[:: max(1, len(used) // 40)]:
        moved = grid.params.detach().clone()
        moved[i] += 1e-6
        with torch.no_grad():
            before = (grid(fixed) * weight).sum()
            grid.params.data, kept = moved, grid.params.data
            slope = ((grid(fixed) * weight).sum() - before) / 1e-6
            grid.params.data = kept
        assert slope.item() == pytest.approx(grid.params.grad[i].item(), abs=1e-6)


def test_smoothstep_is_level_at_the_vertices():
    grid = HashGrid(1, 1, 9, 4, interpolation="smoothstep").double()
    grid.params.data.normal_()
    vertices = (torch.tensor([[1.0, 2, 1], [2, 1, 2]], dtype=torch.float64) - 0.5) / grid.levels[0].scale
    points = vertices.requires_grad_(True)
    (slope,) = torch.autograd.grad(grid(points).sum(), points)
    assert slope.abs().max() < 1e-6 * grid.levels[0].scale


def test_many_points_in_one_cell_add_up():
    grid = HashGrid(**SMALL)
    points = torch.full((1000, 3), 0.37)
    grid(points).sum().backward()
    many = grid.params.grad.clone()
    grid.params.grad = None
    grid(points[:1]).sum().backward()
    torch.testing.assert_close(many, 1000 * grid.params.grad, rtol=1e-4, atol=1e-3)


def test_weights_are_a_partition_and_constant_tables_stay_constant():
    inside = torch.rand(3, 100)
    torch.testing.assert_close(corner_weights(inside).sum((0, 1, 2)), torch.ones(100))
    grid = HashGrid(**SMALL)
    grid.params.data.fill_(0.7)
    torch.testing.assert_close(grid(torch.rand(50, 3)), torch.full((50, grid.width), 0.7))


def test_the_start_is_small_and_seeded():
    torch.manual_seed(3)
    a = HashGrid(**SMALL)
    torch.manual_seed(3)
    b = HashGrid(**SMALL)
    assert torch.equal(a.params, b.params) and a.params.abs().max() <= 1e-4 and a.params.std() > 5e-5


def features_and_gradients(grid, points, weights):
    points = points.clone().requires_grad_(True)
    features = grid(points)
    return [features, *torch.autograd.grad((features * weights).sum(), (grid.params, points))]


class OnCuda(torch.Tensor):
    """A tensor of the CPU that says it is on CUDA."""

    is_cuda = True


class Encoding(torch.nn.Module):
    """In the place of tinycudann's: reads its options and computes with this project's torch code."""

    built = 0

    def __init__(self, dimensions, options, dtype=None):
        super().__init__()
        assert dimensions == 3 and dtype == torch.float32 and options["otype"] == "HashGrid"
        names = ("n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution", "per_level_scale")
        sizes = (options[name] for name in names)
        self.grid = [HashGrid(*sizes, options["interpolation"].lower())]  # in a list it is no submodule
        self.params = torch.nn.Parameter(torch.full_like(self.grid[0].params, math.nan))
        Encoding.built += 1

    def forward(self, points):
        assert len(points), "the real one leaves a gradient uninitialised"
        self.seen = len(points)
        return torch.func.functional_call(self.grid[0], {"params": self.params}, points.as_subclass(torch.Tensor))


@pytest.fixture
def start(monkeypatch):
    """As in a new process: nothing has been looked for."""
    monkeypatch.delitem(sys.modules, "tinycudann", raising=False)
    for cached in (hashgrid.bindings, hashgrid.kernels):
        cached.cache_clear()
    yield monkeypatch
    for cached in (hashgrid.bindings, hashgrid.kernels):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('undefined symbol: _ZN3c10\\nmore')", "torch (ImportError: undefined symbol: _ZN3c10)"),
        ("raise EnvironmentError('built for sm_70')", "torch (OSError: built for sm_70)"),
        ("raise OSError", "torch (OSError:)"),
        ("", "tinycudann"),
    ],
)
def test_the_backend_is_named_with_the_reason(start, tmp_path, source, said):
    (tmp_path / "tinycudann.py").write_text(source)
    start.syspath_prepend(tmp_path)
    assert hashgrid.backend(torch.device("cpu")) == "torch"
    assert "tinycudann" not in sys.modules, "a CPU has no use for it"
    assert hashgrid.backend(torch.device("cuda")) == said
    (tmp_path / "tinycudann.py").write_text("raise OSError('changed')")
    sys.modules.pop("tinycudann", None)
    assert hashgrid.backend(torch.device("cuda", 0)) == said, "it is chosen once"


def test_a_machine_without_tinycudann_encodes_by_torch(start):
    start.setitem(sys.modules, "tinycudann", None)
    assert hashgrid.backend(torch.device("cuda")).startswith("torch (ModuleNotFoundError: ")
    grid, points = HashGrid(**SMALL), torch.rand(5, 3)
    assert torch.equal(grid(points.as_subclass(OnCuda)), grid(points))


def test_tinycudann_computes_with_the_grids_own_parameters(start):
    start.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Encoding))
    start.setattr(Encoding, "built", 0)
    grid, other, wide = HashGrid(**SMALL), HashGrid(**SMALL), HashGrid(**SMALL | {"features": 4, "levels_count": 3})
    points = torch.rand(30, 3)
    smooth = HashGrid(**SMALL, interpolation="smoothstep")
    for one in (grid, other, wide, copy.deepcopy(grid), smooth):
        one.params.data.normal_()
        weights = torch.randn(30, one.width)
        expected = features_and_gradients(one, points, weights)
        found = features_and_gradients(one, points.as_subclass(OnCuda), weights)
        assert hashgrid.kernels(one.layout).seen == 30, "tinycudann did it"
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert list(one.state_dict()) == ["params"] and [name for name, _ in one.named_modules()] == [""]
    assert Encoding.built == 3, "grids of one layout share the kernels"
    padded = HashGrid(**SMALL, padded=True)
    assert torch.equal(padded(points.as_subclass(OnCuda)), padded(points)) and Encoding.built == 3
    assert hashgrid.backend(torch.device("cuda"), padded=True) == "torch (tinycudann knows no padded levels)"
    assert hashgrid.kernels(grid.layout).params.numel() == 0
    grid.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(grid(points.as_subclass(OnCuda)), other(points))
    nothing = features_and_gradients(grid, points[:0].as_subclass(OnCuda), torch.zeros(0, grid.width))
    assert nothing[0].shape == (0, grid.width) and not nothing[1].any(), "no points are left to torch"


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@NO_GPU
def test_torch_on_cuda_gives_the_cpus_features_and_gradients(monkeypatch):
    grid = HashGrid(**SMALL)
    grid.params.data.normal_()
    points, weights = torch.rand(4096, 3) * 1.2 - 0.1, torch.randn(4096, grid.width)
    here = features_and_gradients(grid, points, weights)
    monkeypatch.setattr(hashgrid, "bindings", lambda: (None, "off"))
    there = features_and_gradients(grid.cuda(), points.cuda(), weights.cuda())
    for ours, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, atol=1e-3, rtol=1e-4)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("count", [4096, 1000, 0])  # tinycudann pads to multiples of 256
@pytest.mark.parametrize("sizes", [SMALL, {}], ids=["small", "default"])
def test_tinycudann_gives_torchs_features_and_gradients(monkeypatch, sizes, count):
    pytest.importorskip("tinycudann")
    grid = HashGrid(**sizes).cuda()
    grid.params.data.normal_()
    points, weights = torch.rand(count, 3, device="cuda"), torch.randn(count, grid.width, device="cuda")
    assert hashgrid.backend(points.device) == "tinycudann"
    found = features_and_gradients(grid, points, weights)
    monkeypatch.setattr(hashgrid, "bindings", lambda: (None, "off"))
    expected = features_and_gradients(grid, points, weights)
    assert found[0].dtype == torch.float32
    # Their level scales may differ in the last bit: at the cells' borders the slope is another one.
    torch.testing.assert_close(found[0], expected[0], atol=2e-2, rtol=1e-3)
    torch.testing.assert_close(found[1], expected[1], atol=2e-2, rtol=1e-3)
    wrong = (found[2] - expected[2]).abs() > 1e-2 * expected[2].abs().clamp(min=1.0)
    assert wrong.sum() <= 0.01 * wrong.numel()


@pytest.mark.gpu
@NO_GPU
def test_an_adam_step_with_tinycudann_goes_where_torchs_goes(monkeypatch):
    pytest.importorskip("tinycudann")
    features = []
    for bindings in (hashgrid.bindings, lambda: (None, "off")):
        monkeypatch.setattr(hashgrid, "bindings", bindings)
        torch.manual_seed(0)
        grid = HashGrid(**SMALL).cuda()
        points = torch.rand(1000, 3, device="cuda")
        optimizer = torch.optim.Adam(grid.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            (grid(points) - points.repeat(1, grid.width // 3 + 1)[:, : grid.width]).square().mean().backward()
            optimizer.step()
        features.append(grid.cpu()(points.cpu()).detach())  # trained there, read here
    torch.testing.assert_close(*features, atol=1e-3, rtol=1e-2)
