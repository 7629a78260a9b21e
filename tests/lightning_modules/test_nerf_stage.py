from dataclasses import replace
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from small_runs import ROOT, UNSEEN

from common.errors import InputError
from datamodules.random_cameras import CameraDistribution, Milestone, RandomCameras
from lightning_modules.cli import run, silence
from lightning_modules.nerf import FieldSettings, NerfParticle, NerfStage
from lightning_modules.regularisers import Regularisers
from scene.cameras import turntable
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


def test_the_losses_of_all_guidances_add_up():
    model = stage()
    model.guidances = [SimpleNamespace(particle_loss=lambda *_, loss=loss: torch.tensor(loss)) for loss in (2.0, 3.0)]
    assert model.guide(torch.zeros(2, 8, 8, 3), turntable(2).cameras(8), 0) == 5


def test_the_grid_is_that_of_the_settings():
    grid = NerfParticle(FieldSettings(hidden=0, finest=2048, interpolation="smoothstep", padded=True)).field.encoding
    assert (grid.params.numel(), grid.interpolation, grid.levels[-1].resolution) == (12_239_728, "smoothstep", 2049)
    usual = NerfParticle(FieldSettings()).field.encoding
    assert (usual.params.numel(), usual.interpolation, usual.levels[-1].resolution) == (12_599_920, "linear", 4096)


def test_a_step_in_chunks_has_the_gradient_of_one_without():
    """What is drawn is the same, and the backward computes with it again."""
    gradients = []
    for chunk in (None, 100):
        settings = replace(SMALL, density_noise=1.0, chunk=chunk)
        torch.manual_seed(0)
        model, particle = stage(field=settings), NerfParticle(settings)
        views = turntable(2, 10.0, 2.3, 40.0).cameras(16)
        out, _ = model.render(particle, views, torch.Generator().manual_seed(5))
        out.rgb.square().sum().backward()
        gradients.append([p.grad for p in particle.field.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_training_adds_noise_to_the_density_before_its_activation(monkeypatch):
    settings = replace(SMALL, density_noise=2.0)
    model, particle = stage(field=settings), NerfParticle(settings)
    views, points, seen = turntable(1, 10.0, 2.3, 40.0).cameras(8), torch.zeros(4000, 3), []
    points[:, 0] = torch.linspace(0.3, 0.6, 4000)
    monkeypatch.setattr(particle.renderer, "forward", lambda field, *more: seen.append((field, more[-1])))
    model.render(particle, views, torch.Generator().manual_seed(5))
    model.render(particle, views)
    assert seen[1][1] is None, "pictures have none"
    noisy, calm = (field(points, noise and noise(4000)) for field, noise in seen)
    assert torch.equal(noisy[1], calm[1]), "the colours have none"
    noise = [density.double().expm1().log() for density in (noisy[0], calm[0])]  # softplus undone
    noise = noise[0] - noise[1]
    assert noise.mean().item() == pytest.approx(0, abs=0.15) and noise.std().item() == pytest.approx(2, abs=0.1)
    draws = torch.Generator().manual_seed(5)
    torch.rand(64, generator=draws)  # the rays' shifts come first
    expected = 2 * torch.randn(4000, generator=draws)
    torch.testing.assert_close(noise.float(), expected, atol=1e-2, rtol=1e-2)


def test_plain_backgrounds_begin_at_their_step():
    model = stage(random_background=0.5, random_background_from=3)
    directions = torch.nn.functional.normalize(torch.randn(400 * 4, 3), dim=1)
    learned = lambda d: 0.5 * (d + 1)  # noqa: E731

    def plain_views(step):
        colours = model.backgrounds.draw(learned, directions, 400, torch.Generator().manual_seed(0), step)
        return (colours.view(400, 4, 3) == colours.view(400, 4, 3)[:, :1]).all((1, 2)), colours

    plain, colours = plain_views(2)
    assert not plain.any() and torch.equal(colours, learned(directions))
    plain, colours = plain_views(3)
    assert plain.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(colours.view(400, 4, 3)[~plain], learned(directions).view(400, 4, 3)[~plain])


def test_weight_decay_shrinks_what_has_no_gradient(untrained_prior, tmp_path):
    model, run = stage(weight_decay=0.5, lr_network=0.1, random_background=1.0), trainer(tmp_path, 1, untrained_prior)
    start = Start()
    run.callbacks.append(start)
    run.fit(model, cameras())
    name = "particles.0.background.network.0.weight"  # the plain colours hide it; learning rate 0.001
    torch.testing.assert_close(model.state_dict()[name], start.state[name] * (1 - 0.001 * 0.5))
    with pytest.raises(InputError, match="model.weight_decay: -1; a finite number"):
        trainer(tmp_path, 1, untrained_prior).fit(stage(weight_decay=-1.0), cameras())


@pytest.mark.parametrize("wrong", [{"hidden": -1}, {"finest": 8}, {"density_noise": -1.0}])
def test_impossible_field_settings_are_named(wrong):
    with pytest.raises(InputError, match=f"model.field.{next(iter(wrong))}: "):
        FieldSettings(**wrong)


def test_a_scene_of_the_toybox_through_the_command(tmp_path, monkeypatch):
    """Two steps of configs/toybox/scene.yaml: cameras inside, no view words, walls in every picture."""
    monkeypatch.setattr("sys.argv", ["vsd"])
    options = ["--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", UNSEEN]
    folder = tmp_path / "run"
    command = run(["fit", "--config", str(ROOT / "configs" / "toybox" / "scene.yaml"), "--trainer.max_steps=2",
                   f"--trainer.default_root_dir={folder}", "--trainer.val_check_interval=2", *options])  # fmt: skip
    (guidance,) = command.model.guidances
    assert guidance.prompts.of_views() == ["a red mushroom"]
    with Image.open(folder / "validation" / "particle0-step000002.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (4 * 32, 4 * 32, 3) and pixels[:, 3 * 32 :].min() > 250, "opaque all around"
    assert 30 < pixels[:, 2 * 32 : 3 * 32].mean() < 225, "its walls are neither at the lens nor at infinity"
