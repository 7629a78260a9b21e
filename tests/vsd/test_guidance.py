import shutil
import subprocess
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from common.errors import InputError
from vsd.guidance import VSDGuidance
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps
from vsd.views import Sector, View, ViewSectors, eight_sectors


class Stage(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.guidances = []


def trainer(precision="32-true"):
    return SimpleNamespace(
        precision=precision, strategy=SimpleNamespace(root_device=torch.device("cpu")), global_rank=0, world_size=1
    )


def guidance(model, **more):
    return VSDGuidance("a red car", Timesteps(10), model=str(model), **more)


def test_settings_reach_the_distillation(untrained_prior):
    settings = {"scale": 3.0, "rescale": 0.3, "clamp": 0.1, "weight": "dmd", "reduction": "mean"}
    score = ScoreSettings(shared_forward=True, phi_mix=0.5, updates=2)
    callback, stage = guidance(untrained_prior, score=score, perp_neg=0.5, seed=4, **settings), Stage()
    callback.setup(trainer(), stage, "fit")
    assert stage.guidances == [callback]
    assert {name: getattr(callback.core, name) for name in settings} == settings
    assert callback.core.shared_forward and callback.core.phi_mix == 0.5 and callback.trainer.settings.updates == 2
    assert callback.trainer.seed == 4 and callback.perp_neg == 0.5 and callback.table.prompts.views == eight_sectors()
    assert callback.core.prior.pipeline.text_encoder is None, "freed"


def test_words_of_views_and_overrides_are_the_users(untrained_prior):
    views = ViewSectors((Sector("front view", -90, 90), Sector("back view", 90, 270)))
    callback = guidance(untrained_prior, views=views, overrides={"back view": "a car, back view"}, kind="sds")
    assert callback.prompts.of_views() == ["a red car, front view", "a car, back view", "a red car, overhead view"]
    callback.setup(trainer(), Stage(), "fit")
    assert len(callback.table.views) == 3


def test_fp16_is_refused(untrained_prior):
    with pytest.raises(InputError, match="trainer.precision: fp16 underflows"):
        guidance(untrained_prior).setup(trainer("16-mixed"), Stage(), "fit")


def test_a_module_that_is_no_stage_is_named(untrained_prior):
    with pytest.raises(InputError, match="LightningModule is no stage"):
        guidance(untrained_prior).setup(trainer(), pl.LightningModule(), "fit")


def test_nothing_is_loaded_where_nothing_is_trained():
    stage = Stage()
    guidance("no/such/model").setup(trainer(), stage, "test")
    assert not stage.guidances


def test_two_guidances_of_a_run_keep_their_own_state(untrained_prior):
    first, second = guidance(untrained_prior), guidance(untrained_prior, kind="sds")
    assert first.state_key != second.state_key
    first.setup(trainer(), Stage(), "fit")
    images = torch.zeros(1, 8, 16, 16, requires_grad=True)
    view = View(torch.eye(4)[None], torch.zeros(1), torch.zeros(1))
    first.particle_loss(images, view, torch.tensor([0])).backward()
    first.update_score()
    restored = guidance(untrained_prior)
    restored.load_state_dict(first.state_dict())  # before setup, as Lightning does
    restored.setup(trainer(), Stage(), "fit")
    assert restored.calls == restored.trainer.updates == 1
    for a, b in zip(first.trainer.network.parameters(), restored.trainer.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_phi_of_a_run_is_exported(untrained_prior, tmp_path):
    stage, run = Stage(), trainer()
    stage.run_folder, run.is_global_zero = tmp_path, True
    callbacks = [guidance(untrained_prior, kind=kind) for kind in ("vsd", "sds", "esd")]
    for callback in callbacks:
        callback.setup(run, stage, "fit")
    for callback in callbacks:
        callback.on_fit_end(run, stage)
    names = {"pytorch_lora_weights.safetensors", "camera.safetensors"}
    assert {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*.safetensors")} == {
        f"phi-{k}/{name}" for k in range(2) for name in names
    }


def test_a_scene_has_no_view_words(untrained_prior):
    callback = guidance(untrained_prior, views=None, kind="sds")
    assert callback.prompts.of_views() == ["a red car"]
    callback.setup(trainer(), Stage(), "fit")
    where = View(torch.zeros(2, 4, 4), torch.tensor([0.0, 90.0]), torch.tensor([0.0, 80.0]))
    text = callback.conditions(where).text.states
    assert torch.equal(text[0], text[1]) and torch.equal(text[:1], callback.table.plain.states)


def test_t_and_noise_are_independent(untrained_prior):
    callback, seen = guidance(untrained_prior, kind="sds"), []
    callback.timesteps = Timesteps(10, kind="fixed", low=0.0, high=1.0)
    callback.setup(trainer(), Stage(), "fit")
    callback.core.loss = lambda images, conditions, t, eps, **_: seen.append((t, eps)) or images.sum()
    where = View(torch.zeros(1, 4, 4), torch.zeros(1), torch.zeros(1))
    for _ in range(4000):
        callback.particle_loss(torch.zeros(1, 8, 16, 16), where, torch.tensor([0]))
    t, eps = torch.stack([t[0] for t, _ in seen]).double(), torch.stack([e.flatten() for _, e in seen]).double()
    t = (t - t.mean()) / t.std()
    for values in (eps, eps.square()):  # from one seed, uniform numbers and normal ones share the radius
        values = (values - values.mean(0)) / values.std(0)
        correlation = (t[:, None] * values).mean(0)  # (C h w,), of deviation 0.016 where nothing correlates
        assert correlation.abs().max() < 0.09


def test_renders_of_any_size_are_resized_and_latents_are_not(untrained_prior):
    callback, seen = guidance(untrained_prior, kind="sds", factor=0.5), []
    callback.setup(trainer(), Stage(), "fit")
    callback.core.loss = lambda images, *_, **__: seen.append(images.shape) or torch.tensor(3.0)
    where = View(torch.zeros(1, 4, 4), torch.zeros(1), torch.zeros(1))
    for shape in ((1, 3, 32, 32), (1, 3, 128, 128), (1, 8, 16, 16)):
        assert callback.particle_loss(torch.zeros(shape), where, torch.tensor([0])) == 1.5, "times the factor"
    assert seen == [(1, 3, 64, 64)] * 2 + [(1, 8, 16, 16)]
    assert callback.image_size == 64 and callback.latent_shape == (8, 16, 16)
    assert callback.decode(torch.zeros(2, 8, 16, 16)).shape == (2, 3, 64, 64)


def test_two_guidances_of_one_kind_and_prompt_need_names(untrained_prior):
    stage = Stage()
    guidance(untrained_prior, kind="sds").setup(trainer(), stage, "fit")
    with pytest.raises(InputError, match="two guidances of kind sds for 'a red car'; give one of them a name"):
        guidance(untrained_prior, kind="sds", scale=3.0).setup(trainer(), stage, "fit")
    guidance(untrained_prior, kind="sds", name="b").setup(trainer(), stage, "fit")
    assert [g.label for g in stage.guidances] == ["sds", "sds_b"]


def test_samples_are_the_pipelines_own(untrained_prior):
    """From cached embeddings, after the text encoder is gone and phi sits on the UNet."""
    from vsd.prior import load_pipeline

    callback = guidance(untrained_prior)
    callback.setup(trainer(), Stage(), "fit")
    for parameter in callback.trainer.network.parameters():
        parameter.data += 0.1
    where = View(torch.zeros(1, 4, 4), torch.zeros(1), torch.zeros(1))
    ours = callback.sample(2, where, 3.0)
    pipeline = load_pipeline(untrained_prior)
    pipeline.set_progress_bar_config(disable=True)
    draws = torch.Generator().manual_seed(0)
    words = ["a red car, front view"] * 2
    theirs = pipeline(words, guidance_scale=3.0, generator=draws, output_type="pt").images
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_latents_are_drawn_from_the_posterior_where_asked(untrained_prior):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    where = View(torch.zeros(2, 4, 4), torch.zeros(2), torch.zeros(2))

    def latents(**more):
        callback = guidance(untrained_prior, kind="sds", **more)
        callback.setup(trainer(), Stage(), "fit")
        seen = []
        for _ in range(2):
            callback.particle_loss(images, where, torch.zeros(2, dtype=torch.long))
            seen.append(callback.core.latents)
        return seen, callback.core.prior

    (mode, again), prior = latents()
    assert torch.equal(mode, again)
    (one, two), _ = latents(encode_sample=True)
    (same, _), _ = latents(encode_sample=True)
    assert torch.equal(one, same) and not torch.equal(one, two), "a function of (seed, rank, step)"
    deviation = prior.vae.encode(images).latent_dist.std * prior.vae.config.scaling_factor
    noise = torch.cat([one - mode, two - mode]) / deviation.repeat(2, 1, 1, 1)
    assert noise.mean().abs() < 0.05 and noise.std().item() == pytest.approx(1, abs=0.05)


def test_phi_is_updated_every_so_many_steps(untrained_prior):
    score = ScoreSettings(every=3, updates=2, shared_forward=True)
    callback = guidance(untrained_prior, score=score)
    callback.setup(trainer(), Stage(), "fit")
    where = View(torch.zeros(1, 4, 4), torch.zeros(1), torch.zeros(1))
    counts = []
    for _ in range(6):
        callback.particle_loss(torch.zeros(1, 8, 16, 16), where, torch.tensor([0]))
        callback.update_score()
        counts.append(callback.trainer.updates)
        assert callback.core.take_forward() is None, "no graph is kept"
    assert counts == [0, 0, 2, 2, 2, 4]
    with pytest.raises(InputError, match="guidance.score.every: 0"):
        ScoreSettings(every=0)


def test_a_folder_without_checksums_is_told_of_and_the_command_in_the_line_writes_them(
    untrained_prior, tmp_path, capsys
):
    folder = shutil.copytree(untrained_prior, tmp_path / "a prior")
    guidance(folder, kind="sds").setup(trainer(), Stage(), "fit")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "SHA256SUMS" in line]
    assert line.startswith(f"{folder}: it has no SHA256SUMS, so that a flipped bit")
    subprocess.run(line.partition("to be told: ")[2], shell=True, check=True)
    guidance(folder, kind="sds").setup(trainer(), Stage(), "fit")
    assert "SHA256SUMS" not in capsys.readouterr().out
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="diffusion_pytorch_model.safetensors is not what SHA256SUMS says"):
        guidance(folder, kind="sds").setup(trainer(), Stage(), "fit")
