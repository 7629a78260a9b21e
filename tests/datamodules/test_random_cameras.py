import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from common.errors import InputError
from datamodules.random_cameras import CameraDistribution, CameraStream, Milestone, RandomCameras
from scene.cameras import Cameras, look_at

ROOT = Path(__file__).parents[2]


def sample(count=20000, **more):
    return CameraDistribution(**more).sample(count, 64, np.random.default_rng(0))


def test_every_range_is_covered_uniformly():
    batch = sample(distance=(1.0, 1.5), fovy=(40, 70), elevation=(-10, 45), sphere_share=0.0)
    for key, low, high in (("distance", 1.0, 1.5), ("fovy", 40, 70), ("azimuth", -180, 180), ("elevation", -10, 45)):
        counts = torch.histc(getattr(batch, key), 10, low, high) / len(batch)
        assert counts.sum() == pytest.approx(1, abs=1e-3), f"{key} leaves its range"
        assert (counts - 0.1).abs().max() < 0.012, f"{key} is not uniform"


def test_the_sphere_share_is_uniform_over_area():
    """Closed form: on a sphere the height, sin(elevation), is uniform (Archimedes)."""
    height = torch.sin(torch.deg2rad(sample(sphere_elevation=(0, 90), sphere_share=1.0).elevation))
    counts = torch.histc(height, 10, 0, 1) / len(height)
    assert (counts - 0.1).abs().max() < 0.012
    half = sample(elevation=(-30, -20), sphere_elevation=(0, 90), sphere_share=0.3).elevation
    assert (half >= 0).float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_a_batch_divides_the_azimuths_evenly():
    for seed in range(20):
        azimuth = CameraDistribution().sample(4, 64, np.random.default_rng(seed)).azimuth.sort().values
        torch.testing.assert_close(azimuth.diff(), torch.full((3,), 90.0))
    free = CameraDistribution(uniform_azimuth=False).sample(4, 64, np.random.default_rng(0)).azimuth.sort().values
    assert not torch.allclose(free.diff(), torch.full((3,), 90.0))


def test_matrices_belong_to_the_angles_and_jitter_moves_them():
    batch = sample(64)
    position = batch.camera_to_world[:, :3, 3]
    torch.testing.assert_close(position.norm(dim=1), batch.distance)
    torch.testing.assert_close(
        torch.rad2deg(torch.atan2(position[:, 1], position[:, 0])), batch.azimuth, atol=1e-2, rtol=0
    )
    torch.testing.assert_close(batch.camera_to_world, look_at(position))
    moved = sample(2000, position_jitter=0.1)
    off = (moved.camera_to_world[:, :3, 3].norm(dim=1) - moved.distance).std()
    assert off.item() == pytest.approx(0.1, rel=0.1)
    aimed = sample(2000, target_jitter=0.2).camera_to_world
    forward, centre = -aimed[:, :3, 2], torch.nn.functional.normalize(-aimed[:, :3, 3], dim=1)
    assert ((forward * centre).sum(1) < 0.9999).float().mean() > 0.9


def test_the_stream_is_a_function_of_seed_rank_and_step_and_follows_its_milestones():
    milestones = [Milestone(0, 64, 4), Milestone(3, 128, 2)]

    def take(count, seed=0, rank=0, first=0):
        stream = iter(CameraStream(CameraDistribution(), milestones, seed, rank, lambda: first))
        return [next(stream) for _ in range(count)]

    whole = take(5)
    assert [(b.resolution, len(b)) for b in whole] == [(64, 4)] * 3 + [(128, 2)] * 2
    for a, b in zip(whole[2:], take(3, first=2), strict=True):
        assert torch.equal(a.camera_to_world, b.camera_to_world)
    for other in (take(1, seed=1)[0], take(1, rank=1)[0], whole[1]):
        assert not torch.equal(whole[0].camera_to_world, other.camera_to_world)


def test_an_epoch_continues_with_the_cameras_of_the_trainers_step():
    data = RandomCameras(CameraDistribution(), [Milestone(0, 64)])
    data.trainer = SimpleNamespace(global_rank=0, global_step=0)
    loader = data.train_dataloader()
    first, second = itertools.islice(loader, 2)
    data.trainer.global_step = 1
    again = next(iter(loader))
    assert torch.equal(again.camera_to_world, second.camera_to_world)
    assert not torch.equal(again.camera_to_world, first.camera_to_world)


def test_the_orbit_starts_at_the_front_and_goes_round_once():
    data = RandomCameras(eval_frames=8, validation_frames=4)
    frames = list(data.test_dataloader())
    assert [f.azimuth.item() for f in frames] == [45.0 * i for i in range(8)]
    assert len(list(data.val_dataloader())) == 4 and frames[0].resolution == 512
    assert frames[0].camera_to_world[0, 0, 3] > 0, "the front faces +x"


def test_a_half_cubes_directions_are_the_authors():
    """Points of a half cube, uniform and normalised, against the same by rejection-free quadrature over a lattice."""
    cameras = CameraDistribution(sphere_share=1.0, half_cube=True, distance=(1.2, 1.2))
    found = cameras.sample(20_000, 4, np.random.default_rng(0))
    side = (np.arange(60) + 0.5) / 60
    x, y, z = np.meshgrid(2 * side - 1, 2 * side - 1, side, indexing="ij")
    elevation = np.rad2deg(np.arcsin(z / np.sqrt(x**2 + y**2 + z**2)))
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(found.elevation.numpy(), q) == pytest.approx(np.quantile(elevation, q), abs=1.5)
    corner = np.abs(np.abs(found.azimuth.numpy()) % 90 - 45) < 15  # more than a third: the cube reaches further there
    assert corner.mean() == pytest.approx((np.abs(np.rad2deg(np.arctan2(y, x)) % 90 - 45) < 15).mean(), abs=0.015)
    place = found.camera_to_world[:, :3, 3]
    torch.testing.assert_close(place[:, 2] / 1.2, torch.deg2rad(found.elevation).sin(), atol=1e-4, rtol=1e-4)


def test_cameras_of_a_scene_stand_inside_it():
    with pytest.raises(InputError, match="lower data.cameras.object_radius"):
        CameraDistribution(distance=(0.1, 2.3))
    found = CameraDistribution(distance=(0.1, 2.3), object_radius=0.0).sample(200, 4, np.random.default_rng(0))
    assert found.distance.min() < 0.3 and found.distance.max() > 2.1


@pytest.mark.parametrize("name", ["paper", "threestudio"])
def test_the_shipped_distributions_are_valid(name):
    arguments = yaml.safe_load((ROOT / "configs" / "cameras" / f"{name}.yaml").read_text())["data"]["init_args"]
    data = RandomCameras(CameraDistribution(**arguments["cameras"]), [Milestone(**m) for m in arguments["milestones"]])
    assert data.cameras.distance == [1.0, 1.5] and data.milestones[-1].resolution == 512


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"distance": (1.5, 1.0)}, "data.cameras.distance: its minimum 1.5"),
        ({"distance": (0.3, 1.0)}, "data.cameras.distance: 0.3 is inside the object"),
        ({"fovy": (0.0, 50.0)}, "data.cameras.fovy"),
        ({"fovy": (40.0, 180.0)}, "data.cameras.fovy"),
        ({"elevation": (-100.0, 0.0)}, "data.cameras.elevation"),
        ({"sphere_share": 2.0}, "data.cameras.sphere_share"),
        ({"target_jitter": -1.0}, "data.cameras.target_jitter"),
    ],
)
def test_impossible_ranges_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        CameraDistribution(**arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"milestones": [Milestone(5, 64)]}, "data.milestones"),
        ({"milestones": [Milestone(0, 64), Milestone(0, 128)]}, "data.milestones"),
        ({"milestones": [Milestone(0, 64, 0)]}, "batch_size 0"),
        ({"validation_frames": 0}, "data.validation_frames"),
        ({"eval_fovy": 180.0}, "data.eval_fovy"),
    ],
)
def test_impossible_batches_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        RandomCameras(**arguments)


def test_lightning_moves_a_batch_to_a_device_as_a_whole():
    batch = next(iter(CameraStream(CameraDistribution(), [Milestone(0, 64, 4)], 0, 0, lambda: 0)))
    moved = pl.LightningDataModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, Cameras) and moved.resolution == 64 and len(moved) == 4
    assert {t.device.type for t in (moved.camera_to_world, moved.fovy, moved.distance)} == {"meta"}
