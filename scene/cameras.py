"""Pinhole cameras that look at the origin, and their rays.

World: right-handed, z up, the object's front faces +x, its left side +y, units in which the object fits in [-1, 1]^3.
Camera: OpenGL; x right, y up, the camera looks along its own -z. Matrices are camera-to-world, (B, 4, 4).
Angles are degrees in `Orbit` (configs, captions) and radians inside the functions that do trigonometry.
Azimuth 0 looks at the front and grows counter-clockwise seen from above: 90 sees the object's left side, 180 its back.
Pixels: (row, column) from the top left; the centre of pixel (i, j) lies at (i + 0.5, j + 0.5).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UP = (0.0, 0.0, 1.0)


@dataclass
class Orbit:
    """Cameras on spheres around the origin.

    azimuth, elevation, fovy: (B,) degrees, elevation in [-90, 90], fovy (vertical) in (0, 180); distance: (B,) > 0.
    """

    azimuth: Tensor  # (B,)
    elevation: Tensor  # (B,)
    distance: Tensor  # (B,)
    fovy: Tensor  # (B,)

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    def __getitem__(self, index) -> "Orbit":
        return Orbit(self.azimuth[index], self.elevation[index], self.distance[index], self.fovy[index])

    def positions(self) -> Tensor:
        """World positions (B, 3) of the camera centres."""
        azimuth, elevation = torch.deg2rad(self.azimuth), torch.deg2rad(self.elevation)
        horizontal = self.distance * torch.cos(elevation)
        return torch.stack(
            [horizontal * torch.cos(azimuth), horizontal * torch.sin(azimuth), self.distance * torch.sin(elevation)], -1
        )

    def camera_to_world(self) -> Tensor:
        """Matrices (B, 4, 4), rotation and position."""
        return look_at(self.positions())


def look_at(position: Tensor, target: Tensor | None = None) -> Tensor:
    """Camera-to-world matrices (B, 4, 4) at `position` (B, 3) looking at `target` (B, 3), the origin by default.

    A camera straight above or below the target, where "up" says nothing, gets the world's -x as its up direction
    (the limit of rising along azimuth 0).
    """
    forward = -position if target is None else target - position
    forward = torch.nn.functional.normalize(forward, dim=-1)
    up = torch.tensor(UP, dtype=position.dtype, device=position.device).expand_as(forward)
    right = torch.linalg.cross(forward, up)
    vertical = right.norm(dim=-1, keepdim=True) < 1e-6
    right = torch.where(vertical, torch.tensor([0.0, 1.0, 0.0], dtype=right.dtype, device=right.device), right)
    right = torch.nn.functional.normalize(right, dim=-1)
    matrix = torch.zeros(*position.shape[:-1], 4, 4, dtype=position.dtype, device=position.device)
    matrix[..., :3, 0] = right
    matrix[..., :3, 1] = torch.linalg.cross(right, forward)
    matrix[..., :3, 2] = -forward
    matrix[..., :3, 3] = position
    matrix[..., 3, 3] = 1.0
    return matrix


def pixel_centres(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Pixel centres (height * width, 2) as (row, column), row by row."""
    rows = torch.arange(height, device=device) + 0.5
    columns = torch.arange(width, device=device) + 0.5
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def rays(
    camera_to_world: Tensor,  # (B, 4, 4)
    fovy: Tensor,  # (B,) degrees
    pixels: Tensor,  # (R, 2) or (B, R, 2), (row, column)
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Origins (B, 3) and unit directions (B, R, 3) of the rays through `pixels` of a height x width image."""
    focal = 0.5 * height / torch.tan(torch.deg2rad(fovy) / 2)  # (B,) pixels
    if pixels.dim() == 2:
        pixels = pixels.expand(len(fovy), -1, -1)
    x = (pixels[..., 1] - width / 2) / focal[:, None]
    y = (height / 2 - pixels[..., 0]) / focal[:, None]
    local = torch.stack([x, y, -torch.ones_like(x)], -1)
    directions = local @ camera_to_world[:, :3, :3].transpose(1, 2)
    return camera_to_world[:, :3, 3], torch.nn.functional.normalize(directions, dim=-1)


def pixel_rays(camera_to_world: Tensor, fovy: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (B size^2, 3) of the rays through all pixel centres of square images."""
    centres = pixel_centres(size, size, camera_to_world.device).to(camera_to_world)
    origins, directions = rays(camera_to_world, fovy, centres, size, size)
    return origins[:, None].expand_as(directions).reshape(-1, 3), directions.reshape(-1, 3)


def turntable(
    frames: int, elevation: float = 15.0, distance: float = 2.5, fovy: float = 40.0, start: float = 0.0
) -> Orbit:
    """A full turn of `frames` cameras at equal azimuth steps, starting at azimuth `start` (degrees)."""
    azimuth = start + torch.arange(frames) * (360.0 / frames)
    return Orbit(
        azimuth.float(),
        torch.full((frames,), float(elevation)),
        torch.full((frames,), float(distance)),
        torch.full((frames,), float(fovy)),
    )


def wrap_degrees(azimuth: Tensor | float) -> Tensor | float:
    """The same angle in [-180, 180)."""
    return (azimuth + 180.0) % 360.0 - 180.0
