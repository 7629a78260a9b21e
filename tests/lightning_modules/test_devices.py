"""Whole steps of all stages by Lightning's Trainer on a device that is not the CPU, and the host's waits for it."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from stand_in import StandIn

from datamodules.random_cameras import CameraDistribution, Milestone, RandomCameras
from lightning_modules.cli import silence
from lightning_modules.nerf import FieldSettings, NerfStage
from lightning_modules.regularisers import Regularisers
from vsd.embeddings import embed
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior
from vsd.timesteps import Timesteps


pytestmark = pytest.mark.filterwarnings("ignore:Total length of")  # which Lightning reads from the device


@pytest.fixture(autouse=True)
def calm():
    silence()


class Accelerator(pl.accelerators.CPUAccelerator):
    """Of the stand-in."""

    def setup_device(self, device):
        pass


def trainer(folder, prior, steps=2):
    guidance = VSDGuidance("a red car", Timesteps(10), model=str(prior))
    accelerator = Accelerator()
    return pl.Trainer(
        accelerator=accelerator, strategy=SingleDeviceStrategy(torch.device("meta")),
        max_steps=steps, default_root_dir=folder, callbacks=[guidance], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        val_check_interval=steps, check_val_every_n_epoch=None,
    )  # fmt: skip


def cameras(batch_size=2, **more):
    ranges = CameraDistribution(distance=(2.1, 2.5), fovy=(36, 44))
    return RandomCameras(ranges, [Milestone(0, 16, batch_size)], eval_frames=4, validation_frames=2, eval_distance=2.3,
                         eval_fovy=40, eval_resolution=16, **more)  # fmt: skip


class Steps(pl.Callback):
    """Keeps the waits of every step."""

    def __init__(self, device):
        self.device, self.waits, self.before = device, [], 0

    def on_train_batch_start(self, *_):
        self.before = len(self.device.waits)

    def on_train_batch_end(self, *_):
        self.waits.append(self.device.waits[self.before :])


def test_nerf(untrained_prior, tmp_path):
    field = FieldSettings(encoding="hash", hidden=8, occupancy=8, samples=16)
    model = NerfStage(2, 1, field, Regularisers(sparsity=1.0, opaque=1.0, entropy_bins=4, z_variance=1.0))
    guidance = VSDGuidance("a red car", Timesteps(10))
    embed(DiffusionPrior.load(str(untrained_prior)), ["a red car", "", *guidance.prompts.of_views()])
    with StandIn() as device:
        run = trainer(tmp_path, untrained_prior)
        steps = Steps(device)
        run.callbacks.append(steps)
        run.fit(model, cameras())
    for waits in steps.waits:
        print("\n".join(waits))
        print()
