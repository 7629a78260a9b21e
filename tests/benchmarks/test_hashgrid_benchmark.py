import math

import pytest
import torch

from benchmarks import hashgrid as benchmark
from benchmarks.hashgrid import AllLevelsAtOnce, PlainHashGrid
from scene.hash_encoding import PRIMES
from scene.hashgrid import HashGrid

SMALL = {"levels_count": 4, "features": 2, "log2_hashmap_size": 9, "base_resolution": 4, "per_level_scale": 1.7}


@pytest.fixture(autouse=True)
def threads():
    """The benchmarks set the number of threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_autograd_of_the_plain_formula_is_what_the_hand_written_pass_gives():
    plain, ours = PlainHashGrid(**SMALL).double(), HashGrid(**SMALL).double()
    plain.params.data.normal_()
    ours.params.data.copy_(plain.params.data)
    points = torch.rand(500, 3, dtype=torch.float64) * 1.4 - 0.2  # outside the cube, too
    weights = torch.randn(500, ours.width, dtype=torch.float64)
    gradients = []
    for grid in (plain, ours):
        where = points.clone().requires_grad_(True)
        features = grid(where)
        gradients.append([features, *torch.autograd.grad((features * weights).sum(), (grid.params, where))])
    for theirs, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert gradients[0][1].count_nonzero() > 1000 and gradients[0][2].count_nonzero() > 1000


def test_all_levels_at_once_is_trilinear_over_hashed_corners():
    """Straight from the description, one point and corner at a time, in Python integers."""
    grid = AllLevelsAtOnce(3, log2_size=6, base=4, growth=1.6)
    point = [0.3, 0.61, 0.97]
    expected = []
    for level in range(3):
        scale = math.floor(4 * 1.6**level)
        total = torch.zeros(2)
        for corner in range(8):
            index, weight = 0, 1.0
            for d in range(3):
                position = point[d] * scale
                inside = position - math.floor(position)
                up = corner >> d & 1
                index ^= (math.ceil(position) if up else math.floor(position)) * PRIMES[d]
                weight *= inside if up else 1 - inside
            total += weight * grid.table[level * 64 + index % 64].detach()
        expected.append(total)
    torch.testing.assert_close(grid(torch.tensor([point]))[0], torch.cat(expected), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("goal", "code"), [(0.0, 0), (1e9, 1)])
def test_a_missed_goal_is_said_and_is_the_exit_code(capsys, monkeypatch, goal, code):
    monkeypatch.setattr(benchmark, "GOAL", goal)
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--points", "64", "--levels", "2", "--repeats", "2", "--threads", "1"])
    printed = capsys.readouterr().out
    assert ended.value.code == code and printed.count("MISSED") == 2 * code
    assert "dense grid over hash grid, forward" in printed and "64 points, 2 levels" in printed
