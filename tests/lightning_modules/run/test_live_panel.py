import numpy as np
import pytest
import torch

from lightning_modules.run.live_panel import MARGIN, Panel, cameras_of, fitted
from scene.cameras import Orbit, turntable

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


def test_the_page_says_what_is_asked_for():
    panel = Panel(8380, "nerf", {"geometry": "folder"}, [0, 2], {"vsd": 7.5, "sds": 3.0}, turntable(1))
    try:
        assert (panel.paused, panel.particle, panel.column, panel.turntables) == (False, 0, 0, None)
        panel._pause.value, panel._particle.value, panel._shown.value = True, "2", "normal"
        panel._stage.value = "geometry, finished"
        assert (panel.paused, panel.particle, panel.column, panel.turntables) == (True, 2, 1, "folder")
        assert panel.scales == {"vsd": 7.5, "sds": 3.0}
        for wrong in (float("nan"), float("inf"), -1.0, 1e9):
            panel._scales["vsd"].value = wrong
            assert panel.scales == {"sds": 3.0}, "what is no scale changes nothing"
        assert panel.clients() == {} and panel.address.startswith("http://127.0.0.1:")
    finally:
        panel.close()
