"""The occupancy grid: nerfacc's own, where it is installed, and what follows from its rule."""

import pytest
import torch

from scene.occupancy import DECAY, OccupancyGrid


def cloud(points):
    """Opacity of one step in a blob."""
    return 0.3 * torch.exp(-8 * (points - 0.2).square().sum(-1))


def test_updates_and_buffers_equal_nerfaccs():
    """Over the warm-up and beyond it, cells twice in an update included."""
    nerfacc = pytest.importorskip("nerfacc")
    ours, theirs = OccupancyGrid(0.7, 6), nerfacc.OccGridEstimator([-0.7] * 3 + [0.7] * 3, 6)
    theirs.binaries.fill_(True)
    occupied = set()
    for step in range(0, 400, 16):
        ours.update(step, cloud, 0.05, seed=5_000 + step)
        torch.manual_seed(5_000 + step)
        theirs.update_every_n_steps(step, lambda points: cloud(points)[:, None], occ_thre=0.05)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value) and ours.state_dict()[name].dtype == value.dtype, name
        occupied.add(int(ours.binaries.sum()))
    assert len(occupied) > 3 and min(occupied) > 20 and max(occupied) < 200


def test_an_update_draws_nothing_from_the_global_generator():
    grids = [OccupancyGrid(1.0, 4), OccupancyGrid(1.0, 4)]
    before = torch.get_rng_state()
    for grid in grids:
        grid.update(0, cloud, 0.01, seed=3)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(grids[0].occs, grids[1].occs)
    grids[1].update(0, cloud, 0.01, seed=4)
    assert not torch.equal(grids[0].occs, grids[1].occs)


def test_a_cell_is_looked_at_inside_of_itself_and_forgets_slowly():
    grid, seen = OccupancyGrid(2.0, 4), []

    def opacity(points):
        seen.append(points)
        return torch.full((len(points),), 0.5 if len(seen) == 1 else 0.0)

    for step in range(3):
        grid.update(step, opacity, 0.4, seed=step)
    cells = ((seen[0] + 2) / 1.0).long()
    assert torch.equal(cells @ torch.tensor([16, 4, 1]), torch.arange(64)) and grid.binaries.all()
    torch.testing.assert_close(grid.occs, torch.full((64,), 0.5 * DECAY**2))


def test_points_are_looked_up_in_their_cells():
    grid = OccupancyGrid(1.0, 5)
    grid.binaries.copy_(torch.rand(1, 5, 5, 5) < 0.5)
    points = torch.rand(300, 3) * 2 - 1
    expected = [bool(grid.binaries[0][tuple(int((x + 1) / 0.4) for x in p)]) for p in points.tolist()]
    assert grid.occupied(points).tolist() == expected
    corner = torch.tensor([[1.0, 1.0, 1.0], [-1.5, -1.0, -1.0]])
    assert grid.occupied(corner).tolist() == [bool(grid.binaries[0, 4, 4, 4]), bool(grid.binaries[0, 0, 0, 0])]
