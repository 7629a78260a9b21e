"""What the page of the live view shows and asks: its controls, and the cameras of those who look."""

import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.run.live_page import start, stop
from scene.cameras import Cameras, Orbit

if TYPE_CHECKING:
    from viser import CameraHandle, ClientHandle

COLUMNS = ("colour", "normal", "depth", "opacity")  # of a stage's picture
MOST = 1000.0  # of a scale
MARGIN = 235  # grey beside a square picture in a wide window
QUALITY = 90  # of JPEG


class Panel:
    """The page, with its server. What people ask for is read from here, between two steps.

    Args:
        port: Of the server, or the next one that is free.
        name: Of the stage that trains.
        finished: Turntables of the stages that have finished, by stage; in their folders, turntable-particleN.mp4.
        particles: That can be looked at.
        scales: The scales of the guidances, by what they are called.
        orbit: One camera, from which one looks at first.
    """

    def __init__(
        self,
        port: int,
        name: str,
        finished: dict[str, Path],
        particles: list[int],
        scales: dict[str, float],
        orbit: Orbit,
    ):
        self.server, self.name, self.finished = start(port), name, finished
        self.asked: queue.SimpleQueue[int] = queue.SimpleQueue()  # snapshots, by those who look
        first = self.server.initial_camera
        first.position, first.look_at = orbit.positions()[0].numpy(), (0.0, 0.0, 0.0)
        first.fov = float(torch.deg2rad(orbit.fovy[0]))
        gui = self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False)  # sharing would send the page through the network
        gui.set_panel_label("Live view")
        self._words = gui.add_markdown("")
        self._stage = gui.add_dropdown("Stage", [f"{name}, training", *(f"{one}, finished" for one in finished)])
        self._particle = gui.add_dropdown("Particle", [str(i) for i in particles])
        self._shown = gui.add_dropdown("Shown", COLUMNS)
        self._pause = gui.add_checkbox("Pause", False)
        self._scales = {
            label: gui.add_number(f"Scale, {label}", value, min=0.0, max=MOST, step=0.1)
            for label, value in scales.items()
        }
        gui.add_button("Snapshot").on_click(lambda event: self.asked.put(event.client_id))

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    @property
    def paused(self) -> bool:
        """Whether training is to wait."""
        return self._pause.value

    @property
    def particle(self) -> int:
        """That is looked at."""
        return int(self._particle.value)

    @property
    def column(self) -> int:
        """Of the picture, that is looked at."""
        return COLUMNS.index(self._shown.value)

    @property
    def turntables(self) -> Path | None:
        """The folder of the finished stage that is looked at, None for the stage that trains."""
        return self.finished.get(self._stage.value.rpartition(",")[0])

    @property
    def scales(self) -> dict[str, float]:
        """Of the guidances, by what they are called; none where a page has sent no number, as of an empty field."""
        values = {label: number.value for label, number in self._scales.items()}
        return {
            label: value for label, value in values.items() if isinstance(value, float | int) and 0 <= value <= MOST
        }

    def clients(self) -> dict[int, "ClientHandle"]:
        """Those who look, by number."""
        return self.server.get_clients()

    def tell(self, words: list[str]) -> None:
        """Says how far training is.

        Args:
            words: The lines.
        """
        self._words.content = "  \n".join(words)

    def close(self) -> None:
        """Ends the page; one that is open waits for the next server on its port."""
        stop(self.server)


def cameras_of(camera: "CameraHandle", size: int, device: torch.device) -> Cameras:
    """The camera of somebody who looks.

    Args:
        camera: The browser's: OpenCV's axes, a quaternion, radians.
        size: Pixels of a picture's side.
        device: Of the result.
    """
    from viser.transforms import SO3

    matrix = np.eye(4)
    matrix[:3, :3] = SO3(camera.wxyz).as_matrix() * [1.0, -1.0, -1.0]  # to OpenGL's axes
    matrix[:3, 3] = x, y, z = camera.position
    distance = float(np.linalg.norm(camera.position))
    angles = np.degrees([np.arctan2(y, x), np.arcsin(z / max(distance, 1e-9))])
    azimuth, elevation, away, fovy = torch.tensor([*angles, distance, np.degrees(camera.fov)]).float()[:, None]
    cameras = Cameras(torch.from_numpy(matrix).float()[None], fovy, azimuth, elevation, away, size)
    return cameras.to(device)


def show(client: "ClientHandle", picture: Tensor) -> None:
    """Shows a picture behind everything else on a page.

    Args:
        client: Who looks.
        picture: (S, S, 3), uint8, of the whole height; what a window has at its sides is grey.
    """
    aspect = float(client.camera.image_width) / max(1, client.camera.image_height)
    client.scene.set_background_image(fitted(picture.numpy(), aspect), "jpeg", jpeg_quality=QUALITY)


def fitted(picture: np.ndarray, aspect: float) -> np.ndarray:
    """A square picture with the width of a window: with a margin on both sides, or without its own sides.

    Args:
        picture: (S, S, 3), uint8.
        aspect: Width of the window over its height, > 0.

    Returns:
        (S, round(aspect S), 3).
    """
    size = len(picture)
    width = max(1, round(aspect * size))
    spare = abs(width - size)
    if width < size:
        return picture[:, spare // 2 : spare // 2 + width]
    sides: Any = ((0, 0), (spare // 2, spare - spare // 2), (0, 0))
    return np.pad(picture, sides, constant_values=MARGIN)
