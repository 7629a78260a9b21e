"""Random cameras around the object for training, and an orbit for validation, test and prediction.

A batch is a scene.cameras.Cameras. It is a function of (seed, rank, step) alone, so that a resumed run sees the cameras
that an uninterrupted one sees.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from common.checks import require_range
from common.errors import InputError
from scene.cameras import Cameras, Orbit, look_at, turntable

LARGEST = 8192  # pixels of an image's side, views of a batch
Range = tuple[float, float]


@dataclass(frozen=True)
class Milestone:
    """From a step on, batches have other sizes.

    Args:
        step: The trainer's step from which on this milestone holds, >= 0.
        resolution: Pixels of an image's side, >= 1.
        batch_size: Views of a step, >= 1; a multiple of the particles that a step moves.
    """

    step: int
    resolution: int
    batch_size: int = 1


@dataclass(frozen=True)
class CameraDistribution:
    """Where training cameras are. All ranges are uniform.

    Args:
        distance: Range of the distance from the origin, world units.
        fovy: Range of the vertical field of view, degrees, inside (0, 180).
        azimuth: Range of the azimuth, degrees; 0 is the front, 90 the object's left side.
        elevation: Range of the elevation's uniform angle, degrees, in [-90, 90].
        sphere_elevation: Range of elevations, degrees, between which the camera is uniform over the sphere's area.
        sphere_share: Probability in [0, 1] with which a view uses sphere_elevation in the place of elevation.
        uniform_azimuth: Whether the views of a batch divide the azimuth range evenly, each drawn within its part.
        position_jitter: Standard deviation of the camera's position, world units, >= 0.
        target_jitter: Standard deviation of the point that the camera looks at, world units, >= 0.
        object_radius: Distance from the origin, world units, below which no camera may be; 0 in a scene, where cameras
            stand inside.
        half_cube: Whether a view on the sphere looks from the direction of a point uniform in the upper half of a cube,
            as in ProlificDreamer's code, in the place of sphere_elevation and azimuth: more views come from above.

    Raises:
        InputError: A range is empty or impossible.

    Source: ProlificDreamer's code (elevation -30..90 or the upper hemisphere, by halves) and threestudio's configs.
    """

    distance: Range = (1.0, 1.5)
    fovy: Range = (40.0, 70.0)
    azimuth: Range = (-180.0, 180.0)
    elevation: Range = (-30.0, 90.0)
    sphere_elevation: Range = (0.0, 90.0)
    sphere_share: float = 0.5
    uniform_azimuth: bool = True
    position_jitter: float = 0.0
    target_jitter: float = 0.0
    object_radius: float = 0.5
    half_cube: bool = False

    def __post_init__(self):
        for name in ("position_jitter", "target_jitter", "object_radius"):
            require_range(f"data.cameras.{name}", getattr(self, name), 0)
        for name in ("distance", "fovy", "azimuth", "elevation", "sphere_elevation"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"data.cameras.{name}: its minimum {low:g} is above its maximum {high:g}")
        if not (self.fovy[0] > 0 and self.fovy[1] < 180):
            raise InputError(f"data.cameras.fovy: {list(self.fovy)} is not inside (0, 180) degrees")
        if self.distance[0] <= self.object_radius:
            raise InputError(
                f"data.cameras.distance: {self.distance[0]:g} is inside the object, whose radius is "
                f"{self.object_radius:g}; move the cameras out or lower data.cameras.object_radius"
            )
        for name in ("elevation", "sphere_elevation"):
            if not (getattr(self, name)[0] >= -90 and getattr(self, name)[1] <= 90):
                raise InputError(f"data.cameras.{name}: {list(getattr(self, name))} is not inside [-90, 90] degrees")
        if not 0 <= self.sphere_share <= 1:
            raise InputError(f"data.cameras.sphere_share: {self.sphere_share:g} is not in [0, 1]")

    def sample(self, count: int, resolution: int, rng: np.random.Generator) -> Cameras:
        """Draws a batch of cameras.

        Args:
            count: B, views of the batch.
            resolution: Pixels of an image's side.
            rng: The generator from which everything is drawn.
        """
        part = (np.arange(count) + rng.random()) / count if self.uniform_azimuth else rng.random(count)
        low, high = self.azimuth
        azimuth = low + (high - low) * (part % 1.0)  # (B,)
        sines = np.sin(np.deg2rad(self.sphere_elevation))
        sphere = rng.random(count) < self.sphere_share
        on_sphere = np.rad2deg(np.arcsin(rng.uniform(*sines, count)))
        elevation = np.where(sphere, on_sphere, rng.uniform(*self.elevation, count))  # (B,)
        if self.half_cube:
            x, y, z = rng.uniform((-1.0, -1.0, 0.0), 1.0, (count, 3)).T  # (B,) each
            azimuth = np.where(sphere, np.rad2deg(np.arctan2(y, x)), azimuth)
            elevation = np.where(sphere, np.rad2deg(np.arctan2(z, np.hypot(x, y))), elevation)
        columns = (azimuth, elevation, rng.uniform(*self.distance, count), rng.uniform(*self.fovy, count))
        orbit = Orbit(*(torch.tensor(column, dtype=torch.float32) for column in columns))
        jitter = torch.tensor(rng.standard_normal((2, count, 3)), dtype=torch.float32)  # (2, B, 3)
        position = orbit.positions() + self.position_jitter * jitter[0]
        return orbit.cameras(resolution, look_at(position, self.target_jitter * jitter[1]))


class CameraStream(IterableDataset):
    """Endless training batches, each a function of (seed, rank, step).

    Args:
        cameras: The distribution of the cameras.
        milestones: Sizes of the batches, in rising order of their steps.
        seed: Of everything random.
        rank: Of this process among those of the run.
        first: Gives the trainer's step when an epoch begins, that of its first batch.
    """

    def __init__(
        self,
        cameras: CameraDistribution,
        milestones: list[Milestone],
        seed: int,
        rank: int,
        first: Callable[[], int],
    ):
        self.cameras, self.milestones, self.seed, self.rank, self.first = cameras, milestones, seed, rank, first

    def __iter__(self) -> Iterator[Cameras]:
        step = self.first()
        while True:
            now = [m for m in self.milestones if m.step <= step][-1]
            rng = np.random.default_rng([self.seed, self.rank, step])
            yield self.cameras.sample(now.batch_size, now.resolution, rng)
            step += 1


class RandomCameras(pl.LightningDataModule):
    """Cameras for every stage: random ones for training, and an orbit, from the front on, for everything else.

    Args:
        cameras: The distribution of the training cameras.
        milestones: Resolution and batch size of training from given steps on, in rising order, the first at step 0.
        eval_frames: Cameras of the orbit in test (the turntable) and prediction.
        validation_frames: Cameras of the orbit in validation, at most eval_frames.
        eval_elevation: Elevation of the orbit, degrees.
        eval_distance: Distance of the orbit from the origin, world units.
        eval_fovy: Vertical field of view of the orbit, degrees, in (0, 180).
        eval_resolution: Pixels of an image's side on the orbit.
        seed: Of the training cameras, >= 0.

    Raises:
        InputError: An option is impossible.
    """

    def __init__(
        self,
        cameras: CameraDistribution | None = None,
        milestones: list[Milestone] | None = None,
        eval_frames: int = 120,
        validation_frames: int = 4,
        eval_elevation: float = 15.0,
        eval_distance: float = 1.5,
        eval_fovy: float = 60.0,
        eval_resolution: int = 512,
        seed: int = 0,
    ):
        super().__init__()
        self.cameras = cameras or CameraDistribution()
        self.milestones = [Milestone(0, 512)] if milestones is None else milestones
        steps = [m.step for m in self.milestones]
        if steps[:1] != [0] or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            raise InputError(f"data.milestones: their steps {steps} must start at 0 and rise")
        for m in self.milestones:
            if not (1 <= m.resolution <= LARGEST and 1 <= m.batch_size <= LARGEST):
                raise InputError(
                    f"data.milestones: resolution {m.resolution} or batch_size {m.batch_size} is not in [1, {LARGEST}]"
                )
        require_range("data.eval_resolution", eval_resolution, 1, LARGEST)
        require_range("data.eval_elevation", eval_elevation, -90, 90)
        require_range("data.seed", seed, 0)
        require_range("data.eval_frames", eval_frames, 1, LARGEST)
        if not 1 <= validation_frames <= eval_frames:
            raise InputError(f"data.validation_frames: {validation_frames} is not in 1 ... eval_frames, {eval_frames}")
        if not 0 < eval_fovy < 180 or eval_distance <= self.cameras.object_radius:
            raise InputError(f"data.eval_fovy, data.eval_distance: {eval_fovy:g}, {eval_distance:g} show no object")
        self.eval_frames, self.validation_frames, self.eval_resolution = eval_frames, validation_frames, eval_resolution
        self.eval_elevation, self.eval_distance, self.eval_fovy = eval_elevation, eval_distance, eval_fovy
        self.seed = seed

    @override
    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        stream = CameraStream(
            self.cameras, self.milestones, self.seed, trainer.global_rank, lambda: trainer.global_step
        )
        return DataLoader(stream, batch_size=None)

    def orbit(self, frames: int) -> list[Cameras]:
        """A full turn, one batch of one camera per frame.

        Args:
            frames: Number of cameras; the first one looks at the front.
        """
        turn = turntable(frames, self.eval_elevation, self.eval_distance, self.eval_fovy)
        return [turn[i : i + 1].cameras(self.eval_resolution) for i in range(frames)]

    @override
    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.orbit(self.validation_frames), batch_size=None)

    @override
    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.orbit(self.eval_frames), batch_size=None)

    @override
    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()
