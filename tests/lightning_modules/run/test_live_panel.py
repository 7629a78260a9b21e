import numpy as np
import pytest
import torch

from lightning_modules.run.live_panel import MARGIN, cameras_of, fitted
from scene.cameras import Orbit

pytest.importorskip("viser")


def test_a_browsers_camera_is_ours():
    from viser.transforms import SO3

    orbit = Orbit(*(torch.tensor([value]) for value in (37.0, -20.0, 2.5, 40.0)))
    ours = orbit.cameras(32)
    opencv = ours.camera_to_world[0, :3, :3].double().numpy() * [1, -1, -1]  # x right, y down, z forward
    camera = type("Camera", (), {})()
    camera.wxyz = SO3.from_matrix(opencv).wxyz
    camera.position, camera.fov = orbit.positions()[0].double().numpy(), np.radians(40.0)
    found = cameras_of(camera, 32, torch.device("cpu"))
    for name in ("camera_to_world", "fovy", "azimuth", "elevation", "distance"):
        torch.testing.assert_close(getattr(found, name), getattr(ours, name), rtol=1e-5, atol=1e-5)
    assert found.resolution == 32


def test_a_square_picture_fills_the_height_of_any_window():
    picture = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    wide = fitted(picture, 2.0)
    assert wide.shape == (4, 8, 3) and (wide[:, 2:6] == picture).all()
    assert (wide[:, :2] == MARGIN).all() and (wide[:, 6:] == MARGIN).all()
    assert (fitted(picture, 0.5) == picture[:, 1:3]).all(), "a phone sees the middle"
    assert (fitted(picture, 1.0) == picture).all()
