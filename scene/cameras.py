"""Pinhole cameras, their rays, and the batch of cameras that goes from the datamodule to the renderer.

World: right-handed, z up, the object's front faces +x, its left side +y, units in which the object fits in [-1, 1]^3.
Camera: OpenGL; x right, y up, the camera looks along its own -z. Matrices are camera-to-world, (B, 4, 4).
Angles are degrees in `Orbit` and `Cameras` (configs, captions) and radians inside functions that do trigonometry.
Azimuth 0 looks at the front and grows counter-clockwise seen from above: 90 sees the object's left side, 180 its back.
Pixels: (row, column) from the top left; the centre of pixel (i, j) lies at (i + 0.5, j + 0.5).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

UP = (0.0, 0.0, 1.0)


@dataclass
class Cameras:
    """A batch of B cameras and the size of their images.

    Args:
        camera_to_world: Matrices (B, 4, 4), rotation and position.
        fovy: Vertical field of view (B,) in degrees, in (0, 180).
        azimuth: (B,) degrees.
        elevation: (B,) degrees, in [-90, 90].
        distance: (B,) from the origin, world units, > 0.
        resolution: Pixels of an image's side.
    """

    camera_to_world: Tensor  # (B, 4, 4)
    fovy: Tensor  # (B,)
    azimuth: Tensor  # (B,)
    elevation: Tensor  # (B,)
    distance: Tensor  # (B,)
    resolution: int

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Cameras":
        tensors = self.camera_to_world, self.fovy, self.azimuth, self.elevation, self.distance
        return Cameras(*map(function, tensors), self.resolution)

    def __len__(self) -> int:
        return len(self.fovy)

    def __getitem__(self, index: slice | Tensor | list[int]) -> "Cameras":
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras on a device.

        Args:
            device: Where to. Lightning calls this for every batch.

        Returns:
            A copy, or views of the same tensors where they are on the device already.
        """
        device = torch.device(device)
        return self._map(lambda tensor: tensor.to(device, non_blocking=device.type != "cpu"))

    def rays(self) -> tuple[Tensor, Tensor]:
        """The rays through all pixel centres.

        Returns:
            Origins and unit directions, (B resolution^2, 3), image by image and row by row.
        """
        return pixel_rays(self.camera_to_world, self.fovy, self.resolution)


@dataclass
class Orbit:
    """The description of B cameras on spheres around the origin, which look at it.

    Args:
        azimuth: (B,) degrees.
        elevation: (B,) degrees, in [-90, 90].
        distance: (B,) from the origin, world units, > 0.
        fovy: Vertical field of view (B,) in degrees, in (0, 180).
    """

    azimuth: Tensor  # (B,)
    elevation: Tensor  # (B,)
    distance: Tensor  # (B,)
    fovy: Tensor  # (B,)

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> "Orbit":
        return Orbit(self.azimuth[index], self.elevation[index], self.distance[index], self.fovy[index])

    def positions(self) -> Tensor:
        """World positions (B, 3) of the camera centres."""
        azimuth, elevation = torch.deg2rad(self.azimuth), torch.deg2rad(self.elevation)
        horizontal = self.distance * torch.cos(elevation)  # (B,)
        return torch.stack(
            [horizontal * torch.cos(azimuth), horizontal * torch.sin(azimuth), self.distance * torch.sin(elevation)], -1
        )

    def camera_to_world(self) -> Tensor:
        """Matrices (B, 4, 4), rotation and position."""
        return look_at(self.positions())

    def cameras(self, resolution: int, camera_to_world: Tensor | None = None) -> Cameras:
        """The batch of cameras that renderers take.

        Args:
            resolution: Pixels of an image's side.
            camera_to_world: Matrices (B, 4, 4) that differ from the orbit's own, such as jittered ones.

        Returns:
            The cameras, with the angles and distances of the orbit.
        """
        matrices = self.camera_to_world() if camera_to_world is None else camera_to_world
        return Cameras(matrices, self.fovy, self.azimuth, self.elevation, self.distance, resolution)


def look_at(position: Tensor, target: Tensor | None = None) -> Tensor:
    """Camera-to-world matrices of cameras that look at a point.

    Args:
        position: Camera centres (B, 3).
        target: What they look at, (B, 3), None for the origin.

    Returns:
        Matrices (B, 4, 4). A camera straight above or below the target, where "up" says nothing, gets the world's -x
        as its up direction (the limit of rising along azimuth 0).
    """
    forward = -position if target is None else target - position
    forward = torch.nn.functional.normalize(forward, dim=-1)  # (B, 3)
    up = torch.tensor(UP, dtype=position.dtype, device=position.device).expand_as(forward)
    right = torch.linalg.cross(forward, up)
    vertical = right.norm(dim=-1, keepdim=True) < 1e-6  # (B, 1)
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
    """The centres of an image's pixels.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        device: Of the result.

    Returns:
        (height * width, 2) as (row, column), row by row.
    """
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
    """The rays through some pixels of every camera's image.

    Args:
        camera_to_world: Matrices (B, 4, 4).
        fovy: Vertical fields of view (B,) in degrees.
        pixels: (R, 2) for all cameras or (B, R, 2), as (row, column).
        height: Rows of the images.
        width: Columns of the images.

    Returns:
        Origins (B, 3) and unit directions (B, R, 3).
    """
    focal = 0.5 * height / torch.tan(torch.deg2rad(fovy) / 2)  # (B,) pixels
    if pixels.dim() == 2:
        pixels = pixels.expand(len(fovy), -1, -1)
    x = (pixels[..., 1] - width / 2) / focal[:, None]  # (B, R)
    y = (height / 2 - pixels[..., 0]) / focal[:, None]
    local = torch.stack([x, y, -torch.ones_like(x)], -1)  # (B, R, 3), camera axes
    directions = local @ camera_to_world[:, :3, :3].transpose(1, 2)
    return camera_to_world[:, :3, 3], torch.nn.functional.normalize(directions, dim=-1)


def pixel_rays(camera_to_world: Tensor, fovy: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The rays through all pixel centres of square images.

    Args:
        camera_to_world: Matrices (B, 4, 4).
        fovy: Vertical fields of view (B,) in degrees.
        size: Pixels of an image's side.

    Returns:
        Origins and unit directions, (B size^2, 3), image by image and row by row.
    """
    centres = pixel_centres(size, size, camera_to_world.device).to(camera_to_world)
    origins, directions = rays(camera_to_world, fovy, centres, size, size)  # (B, 3), (B, size^2, 3)
    return origins[:, None].expand_as(directions).reshape(-1, 3), directions.reshape(-1, 3)


def turntable(
    frames: int, elevation: float = 15.0, distance: float = 2.5, fovy: float = 40.0, start: float = 0.0
) -> Orbit:
    """A full turn around the object at equal steps of azimuth.

    Args:
        frames: Number of cameras.
        elevation: Of all, degrees.
        distance: Of all from the origin, world units.
        fovy: Vertical field of view of all, degrees.
        start: Azimuth of the first camera, degrees.
    """
    azimuth = start + torch.arange(frames) * (360.0 / frames)
    return Orbit(
        azimuth.float(),
        torch.full((frames,), float(elevation)),
        torch.full((frames,), float(distance)),
        torch.full((frames,), float(fovy)),
    )
