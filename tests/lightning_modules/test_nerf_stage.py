import imageio.v3 as iio
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from common.errors import InputError
from datamodules.random_cameras import CameraDistribution, Milestone, RandomCameras
from lightning_modules.cli import silence
from lightning_modules.nerf import FieldSettings, NerfStage
from lightning_modules.regularisers import Regularisers
from vsd.guidance import VSDGuidance
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps

SMALL = FieldSettings(encoding="dense", hidden=8, occupancy=8, samples=16)


@pytest.fixture(autouse=True)
def calm():
    silence()


def cameras(batch_size=2, **more):
    ranges = CameraDistribution(distance=(2.1, 2.5), fovy=(36, 44))
    return RandomCameras(ranges, [Milestone(0, 16, batch_size)], eval_frames=4, validation_frames=2, eval_distance=2.3,
                         eval_fovy=40, eval_resolution=16, **more)  # fmt: skip


def stage(**more):
    return NerfStage(**{"particles": 2, "particles_per_step": 2, "field": SMALL, **more})


def trainer(folder, steps, model=None, **more):
    score = ScoreSettings(lr=1e-2, warmup=1)
    callbacks = [VSDGuidance("a red car", Timesteps(10), model=str(model), score=score)] if model else []
    return pl.Trainer(
        max_steps=steps, default_root_dir=folder, callbacks=callbacks, logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        val_check_interval=2, check_val_every_n_epoch=None, **more,
    )  # fmt: skip


class Start(pl.Callback):
    """Keeps the parameters that training starts from."""

    def on_train_start(self, trainer, pl_module):
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


def test_two_steps_move_every_particle_and_write_pictures(untrained_prior, tmp_path):
    losses = Regularisers(sparsity=1.0, opaque=1.0, opaque_from=1, entropy=1.0)
    model = stage(losses=losses, random_background=0.0)
    run = trainer(tmp_path, 2, untrained_prior)
    start = Start()
    run.callbacks.append(start)
    run.fit(model, cameras())
    for i in range(2):
        for part in ("field.encoding", "field.network", "background"):
            names = [n for n in start.state if n.startswith(f"particles.{i}.{part}")]
            moved = [n for n in names if not torch.equal(start.state[n], model.state_dict()[n])]
            assert names and moved, f"{part} of particle {i} stays as it is"
    first, second = (p.field.network[0].weight for p in model.particles)
    assert not torch.equal(first, second), "particles start and move on their own"
    for i in range(2):
        with Image.open(tmp_path / "validation" / f"particle{i}-step000002.png") as picture:
            assert picture.size == (4 * 16, 2 * 16)
    run.test(model, cameras())
    video = iio.imread(tmp_path / "turntable-particle0.mp4", plugin="FFMPEG")
    assert video.shape == (4, 16, 64, 3)


def test_pictures_wait_on_the_cpu_as_bytes(tmp_path):
    model, run = stage(particles=1, particles_per_step=1), trainer(tmp_path, 1)
    run.test(model, cameras(), verbose=False)
    assert [(f.shape, f.dtype, f.device.type) for f in model.strips[0]] == [((16, 64, 3), torch.uint8, "cpu")] * 4


def test_a_resumed_run_equals_an_uninterrupted_one(untrained_prior, tmp_path):
    def run(folder, steps, **more):
        model, one = stage(particles=3), trainer(folder, steps, untrained_prior)
        one.fit(model, cameras(), **more)
        one.save_checkpoint(folder / "last.ckpt")
        return model

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "part", 2)
    resumed = run(tmp_path / "rest", 4, ckpt_path=tmp_path / "part" / "last.ckpt")
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_views_that_cannot_be_divided_are_named(untrained_prior, tmp_path):
    with pytest.raises(InputError, match="3 views cannot be divided evenly among 2 particles"):
        trainer(tmp_path, 1, untrained_prior).fit(stage(), cameras(batch_size=3))


def test_a_stage_without_guidance_names_the_key(tmp_path):
    with pytest.raises(InputError, match="trainer.callbacks: no guidance"):
        trainer(tmp_path, 1).fit(stage(), cameras())
