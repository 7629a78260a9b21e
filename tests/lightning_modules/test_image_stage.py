from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from common.errors import InputError
from lightning_modules.cli import main, silence
from lightning_modules.image import ImageStage
from vsd.guidance import VSDGuidance
from vsd.prior import load_pipeline
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps

SCORE = ScoreSettings(lr=1e-2, warmup=1)


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    silence()
    monkeypatch.setattr("sys.argv", ["vsd"])


def size_of(path):
    with Image.open(path) as image:
        return image.size


def guidance(model, kind="vsd", **more):
    return VSDGuidance("a red car", Timesteps(10), model=str(model), kind=kind, score=SCORE, **more)


def trainer(folder, steps, callbacks, **more):
    return pl.Trainer(
        max_steps=steps, default_root_dir=folder, callbacks=callbacks, logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **more,
    )  # fmt: skip


@pytest.mark.parametrize("space", ["latents", "pixels"])
def test_one_run_compares_guidances_and_writes_the_grid(untrained_prior, tmp_path, space):
    stage = ImageStage(particles=2, particles_per_step=2, space=space)
    trainer(tmp_path, 2, [guidance(untrained_prior, "sds"), guidance(untrained_prior)]).fit(stage)
    assert size_of(tmp_path / "image.png") == (2 * 64, 3 * 64)
    assert len(stage.pictures) == 2
    start = ImageStage(particles=2, particles_per_step=2, space=space)
    start.guidances = stage.guidances
    start.configure_model()
    for which in range(2):
        assert not torch.equal(stage.pictures[which][0], start.pictures[which][0]), "every guidance moves its particles"


def test_guidances_with_priors_of_other_image_sizes_share_the_grid(untrained_prior, tmp_path):
    untrained_stable_diffusion(TINY).save_pretrained(tmp_path / "small")
    stage = ImageStage(particles=2, particles_per_step=2)
    trainer(tmp_path, 1, [guidance(untrained_prior, "sds"), guidance(tmp_path / "small", "csd")]).fit(stage)
    assert [one.image_size for one in stage.guidances] == [64, 32]
    assert size_of(tmp_path / "image.png") == (2 * 64, 3 * 64)


def test_a_model_of_the_hub_gives_the_picture_and_a_phi_for_its_plain_pipeline(untrained_prior, tmp_path, monkeypatch):
    read = DiffusionPipeline.from_pretrained
    hub = lambda name, **more: read(untrained_prior if name == "someone/model" else name, **more)  # noqa: E731
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", hub)
    trainer(tmp_path, 2, [guidance("someone/model")]).fit(ImageStage(particles=1, particles_per_step=1))
    assert size_of(tmp_path / "image.png") == (64, 2 * 64)
    pipeline = load_pipeline("someone/model")
    pipeline.load_lora_weights(tmp_path / "phi")
    assert any("lora" in name for name, _ in pipeline.unet.named_parameters())
    assert (tmp_path / "phi" / "camera.safetensors").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(untrained_prior, tmp_path):
    def run(folder, steps, **more):
        stage = ImageStage(particles=3, particles_per_step=2)
        one = trainer(folder, steps, [guidance(untrained_prior)])
        one.fit(stage, **more)
        one.save_checkpoint(folder / "last.ckpt")
        return stage

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "part", 2)
    resumed = run(tmp_path / "rest", 4, ckpt_path=tmp_path / "part" / "last.ckpt")
    for a, b in zip(whole.pictures[0], resumed.pictures[0], strict=True):
        assert torch.equal(a, b)
    ours, theirs = whole.guidances[0].trainer, resumed.guidances[0].trainer
    assert ours.updates == theirs.updates == 4
    assert all(torch.equal(a, b) for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("end", "rates"), [(1.0, [0.1] * 4), (0.0, [0.1, 0.075, 0.05, 0.025]), (0.6, [0.1, 0.09, 0.08, 0.07])]
)
def test_the_learning_rate_falls_linearly(end, rates):
    stage = ImageStage(lr=0.1, lr_end=end)
    stage.pictures, stage._trainer = torch.nn.ParameterList([torch.zeros(1)]), SimpleNamespace(max_steps=4)
    configured = stage.configure_optimizers()
    seen = []
    for _ in range(4):
        seen.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert seen == pytest.approx(rates) and configured["lr_scheduler"]["interval"] == "step"


def test_a_run_that_was_killed_before_its_picture_writes_it_when_it_is_resumed(untrained_prior, tmp_path):
    def fit(**more):
        one = trainer(tmp_path, 2, [guidance(untrained_prior)])
        one.fit(ImageStage(particles=2, particles_per_step=2), **more)
        return one, (tmp_path / "image.png").read_bytes()

    one, written = fit()
    one.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "image.png").unlink()
    assert fit(ckpt_path=tmp_path / "last.ckpt")[1] == written


def test_a_checkpoint_holds_what_was_trained_and_no_frozen_weights(untrained_prior, tmp_path):
    one = trainer(tmp_path, 1, [guidance(untrained_prior)])
    one.fit(ImageStage(particles=1, particles_per_step=1))
    one.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert list(saved["state_dict"]) == ["pictures.0.0"]
    assert (tmp_path / "last.ckpt").stat().st_size < 3e6


def test_a_gradient_that_stays_broken_stops_the_run(untrained_prior, tmp_path, monkeypatch):
    monkeypatch.setattr("vsd.guidance.CHECK_EVERY", 1)
    broken = guidance(untrained_prior, "sds", nan_limit=2)
    monkeypatch.setattr(
        "vsd.score_distillation.ScoreDistillation.gradient", lambda self, x, *_: torch.full_like(x, float("nan"))
    )
    with pytest.raises(InputError, match="3 gradients were not finite in 3 steps"):
        trainer(tmp_path, 10, [broken]).fit(ImageStage(particles=1, particles_per_step=1))


def test_a_stage_without_guidance_names_the_key(tmp_path):
    with pytest.raises(InputError, match="trainer.callbacks: no guidance"):
        trainer(tmp_path, 1, []).fit(ImageStage())


def test_the_command_runs_the_shipped_configuration(untrained_prior, tmp_path, capsys):
    main(
        ["fit", "--config", "configs/toybox/image.yaml", "--trainer.max_steps=1", "--model.particles=1",
         "--model.particles_per_step=1", f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false",
         "--trainer.enable_progress_bar=false", "--prompt=a blue duck"]
    )  # fmt: skip
    assert size_of(tmp_path / "image.png") == (64, 3 * 64)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompt=  "], "prompt: it is empty"),
        (["--model.particles=0"], "model.particles: 0"),
        (["--model.particlez=3"], "particlez"),
        (["--trainer.max_steps=soon"], "trainer.max_steps"),
        (["--config=configs/none.yaml"], "none.yaml"),
    ],
)
def test_wrong_input_ends_the_command_with_one_line_and_code_2(tmp_path, capsys, arguments, named):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "configs/toybox/image.yaml", f"--trainer.default_root_dir={tmp_path}", *arguments])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    assert named in line and not list(tmp_path.iterdir())
