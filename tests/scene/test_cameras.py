import math

import pytest
import torch

from scene.cameras import Orbit, look_at, pixel_centres, rays, turntable


def orbit(azimuth, elevation=0.0, distance=2.5, fovy=40.0):
    return Orbit(*(torch.tensor([float(v)]) for v in (azimuth, elevation, distance, fovy)))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "where"),
    [(0, 0, (2.5, 0, 0)), (90, 0, (0, 2.5, 0)), (180, 0, (-2.5, 0, 0)), (0, 90, (0, 0, 2.5)), (-90, 0, (0, -2.5, 0))],
)
def test_positions_follow_the_azimuth_counter_clockwise_from_the_front(azimuth, elevation, where):
    torch.testing.assert_close(
        orbit(azimuth, elevation).positions()[0], torch.tensor(where, dtype=torch.float), atol=1e-6, rtol=0
    )


def test_matrices_are_rigid_and_look_at_the_target():
    position = torch.randn(64, 3, dtype=torch.float64) * 2
    target = torch.randn(64, 3, dtype=torch.float64)
    matrix = look_at(position, target)
    rotation = matrix[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(64, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(64, dtype=torch.float64))
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    torch.testing.assert_close(-rotation[:, :, 2], forward)
    assert (rotation[:, 2, 1] >= 0).all(), "the image's up must not point down in the world"


@pytest.mark.parametrize("elevation", [90.0, -90.0])
def test_a_vertical_camera_is_the_limit_of_rising_along_azimuth_zero(elevation):
    almost = orbit(0, elevation * 0.9999).camera_to_world()
    torch.testing.assert_close(orbit(0, elevation).camera_to_world(), almost, atol=1e-3, rtol=0)


def test_rays_of_the_front_camera():
    """Facing the front, one sees the world's +y, the object's left, on the right-hand side of the image."""
    camera = orbit(0)
    origins, directions = rays(
        camera.camera_to_world(), camera.fovy, torch.tensor([[16.0, 16.0], [16.0, 32.0], [0.0, 16.0]]), 32, 32
    )
    half = math.tan(math.radians(20))
    expected = torch.nn.functional.normalize(torch.tensor([[-1.0, 0, 0], [-1.0, half, 0], [-1.0, 0, half]]), dim=-1)
    torch.testing.assert_close(directions[0], expected)
    torch.testing.assert_close(origins[0], torch.tensor([2.5, 0, 0]))


def test_pixel_centres_go_row_by_row():
    assert pixel_centres(2, 3).tolist() == [[0.5, 0.5], [0.5, 1.5], [0.5, 2.5], [1.5, 0.5], [1.5, 1.5], [1.5, 2.5]]


def test_turntable_is_one_even_turn():
    cameras = turntable(8, start=10)
    assert cameras.azimuth.tolist() == [10 + 45 * i for i in range(8)]
    assert len(cameras) == 8 and len(cameras[2:4]) == 2


def test_a_batch_of_cameras_is_cut_and_moved_with_all_its_fields():
    cameras = turntable(6, elevation=20, distance=2, fovy=50).cameras(8)
    assert len(cameras) == 6 and cameras.resolution == 8
    for part, where in ((cameras[2:4], [2, 3]), (cameras[[5, 0]], [5, 0]), (cameras[1:2].to("cpu"), [1])):
        assert len(part) == len(where) and part.resolution == 8
        for name in ("camera_to_world", "fovy", "azimuth", "elevation", "distance"):
            assert torch.equal(getattr(part, name), getattr(cameras, name)[where])
    assert cameras.to("meta").distance.device.type == "meta"


def test_rays_of_a_batch_go_image_by_image_and_row_by_row():
    cameras = turntable(3).cameras(4)
    origins, directions = cameras.rays()
    for i in range(3):
        for j in range(16):
            pixel = torch.tensor([[j // 4 + 0.5, j % 4 + 0.5]])
            origin, direction = rays(cameras.camera_to_world[i : i + 1], cameras.fovy[i : i + 1], pixel, 4, 4)
            torch.testing.assert_close(directions[16 * i + j], direction[0, 0])
            assert torch.equal(origins[16 * i + j], origin[0])


def test_jittered_matrices_take_the_place_of_the_orbits_own():
    matrices = look_at(torch.randn(2, 3))
    cameras = turntable(2).cameras(4, matrices)
    assert torch.equal(cameras.camera_to_world, matrices) and cameras.azimuth.tolist() == [0, 180]
