"""Samples along rays: a walk along one ray at a time as the reference, and rays that miss."""

import torch

from scene.cameras import pixel_rays, turntable
from scene.marching import enter_cube, march
from scene.occupancy import OccupancyGrid


def test_marching_follows_nerfaccs_rule():
    """Reference: walk the lattice of one ray at a time and test each midpoint."""
    grid, step = OccupancyGrid(0.6, 4), 0.052
    grid.binaries.copy_(torch.rand(1, 4, 4, 4) < 0.5)
    camera = turntable(1, elevation=20, distance=2.5)
    origins, directions = pixel_rays(camera.camera_to_world(), camera.fovy, 6)
    jitter = torch.rand(len(origins))
    ray, start = march(origins, directions, jitter, step, grid)
    found = set()
    for r in range(len(origins)):
        enter, leave = (float(v) for v in enter_cube(origins[r : r + 1], directions[r : r + 1], 0.6))
        for k in range(200):
            t = float(jitter[r]) * step + k * step
            point = origins[r] + (t + step / 2) * directions[r]
            cell = ((point / 1.2 + 0.5) * 4).floor().long()
            if enter <= t + step / 2 < leave and grid.binaries[0][tuple(cell.clamp(0, 3))]:
                found.add((r, k))
    ours = {(int(r), round((float(t) / step) - float(jitter[r]))) for r, t in zip(ray, start, strict=True)}
    assert len(found ^ ours) <= 2 and len(found) > 50, "only rounding at a face may differ"
    assert (ray.diff() >= 0).all() and (start.diff()[ray.diff() == 0] > 0).all()


def test_rays_that_miss_the_cube_have_no_samples_and_rays_from_inside_start_there():
    origins = torch.tensor([[2.0, 0, 2], [0.1, 0.2, 0.3], [2.0, 0, 0]])
    directions = torch.tensor([[-1.0, 0, 0], [0, 0, 1], [1, 0, 0]])
    ray, start = march(origins, directions, None, 0.1, OccupancyGrid(1.0, 3))
    assert ray.tolist() == [1] * 7, "from the height of 0.3 to 1"
    torch.testing.assert_close(start, torch.arange(7) * 0.1)
    enter, leave = enter_cube(origins, directions, 1.0)
    assert enter[0] >= leave[0] and enter[2] >= leave[2]
    assert (enter[1], leave[1]) == (0, 0.7)
