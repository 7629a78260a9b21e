import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_fits import ROOT, arguments, checkpoint, fit, same, weights

from common.errors import InputError
from common.files import SUMS
from toybox.prior.autoencoder import ToyboxAutoencoder
from toybox.prior.data import ToyboxData
from toybox.prior.half import save_half
from toybox.prior.image_tower import ToyboxImageTower
from toybox.prior.part import PartCheckpoint, warm_hold_decay
from toybox.prior.unet import ToyboxUnet
from vsd.prior import load_pipeline

PARTS = ("vae", "unet", "text_encoder", "image_encoder")
TRAINED = {"autoencoder": ["vae"], "prior": ["unet", "text_encoder"], "image_tower": ["image_encoder"]}
CLASSES = {"autoencoder": ToyboxAutoencoder, "prior": ToyboxUnet, "image_tower": ToyboxImageTower}


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    """LightningCLI warns when it gets arguments from both pytest's command line and a call."""
    monkeypatch.setattr(sys, "argv", ["vsd"])


class Killed(Exception):
    pass


@pytest.mark.parametrize("part", TRAINED)
def test_an_interrupted_training_of_a_part_ends_with_the_same_bits(part, untrained_prior, cache, tmp_path, monkeypatch):
    """Four steps at a stretch, and killed in step 4 with the state of step 2, then resumed; the part alone changes."""
    folders = tmp_path / "a" / "prior", tmp_path / "b" / "prior"
    for folder in folders:
        shutil.copytree(untrained_prior, folder)
    usual = "--trainer.callbacks.every=2", "--trainer.precision=bf16-mixed"
    fit(part, folders[0], *usual, steps=4)
    step = CLASSES[part].training_step

    def killed(self, batch, index):
        if self.trainer.global_step == 3:
            raise Killed
        return step(self, batch, index)

    monkeypatch.setattr(CLASSES[part], "training_step", killed)
    with pytest.raises(Killed):
        fit(part, folders[1], *usual, steps=4)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["vsd"])
    for folder in folders:
        saved = torch.load(checkpoint(part, folder), weights_only=True)
        assert saved["global_step"] == 2, "the state after the last step is not kept"
    torch.manual_seed(7)
    fit(part, folders[1], *usual, f"--ckpt_path={checkpoint(part, folders[1])}", "--seed_everything=5", steps=4)
    for name in PARTS:
        whole, resumed = (weights(folder, name) for folder in folders)
        assert same(whole, resumed), name
        assert same(whole, weights(untrained_prior, name)) != (name in TRAINED[part]), name
        assert all(torch.isfinite(tensor).all() for tensor in whole.values())
    scale = load_pipeline(folders[0]).vae.config.scaling_factor
    assert (scale != 0.18215) == (part == "autoencoder")
    assert scale == load_pipeline(folders[1]).vae.config.scaling_factor


def test_training_goes_on_from_a_copy_of_a_shipped_prior(untrained_prior, cache, tmp_path):
    """Such a copy has checksums, which its new weights no longer have."""
    folder = tmp_path / "prior"
    save_half(untrained_prior, folder)
    before = weights(folder, "vae")
    fit("autoencoder", folder)
    assert not same(weights(folder, "vae"), before) and not (folder / SUMS).exists()


def test_a_checkpoint_beyond_the_last_step_is_refused(untrained_prior, cache, tmp_path, capsys):
    """Lightning would end at once, and the folder would keep older weights."""
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    fit("image_tower", folder, "--trainer.callbacks.every=2", steps=3)
    with pytest.raises(SystemExit) as ended:
        fit("image_tower", folder, f"--ckpt_path={checkpoint('image_tower', folder)}", steps=2)
    assert ended.value.code == 2
    assert "its step, 2, is not below trainer.max_steps, 2" in capsys.readouterr().err


def test_a_checkpoint_every_zero_steps_is_refused():
    with pytest.raises(InputError, match="every: 0"):
        PartCheckpoint("last.ckpt", 0)


def test_the_learning_rate_rises_holds_and_falls():
    factors = [warm_hold_decay(step, 100, 10, 20) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[50] == factors[80] == 1
    assert factors[90] == pytest.approx(0.5) and factors[99] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--data.batch_size=0", "data.batch_size: 0"),
        ("--model.folder={folder}", "not a pipeline index"),
        ("--model.folder={folder}/none", "train the autoencoder"),
    ],
)
def test_wrong_input_ends_the_command_with_one_line_and_code_2(argument, named, tmp_path, cache, capsys):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        fit("prior", tmp_path / "new", argument.format(folder=tmp_path))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert named in error.splitlines()[-1] and "Traceback" not in error


@pytest.mark.parametrize(
    ("build", "option", "value"),
    [
        *((ToyboxUnet, name, 0.0) for name in ("t_power", "late_t_power")),
        (ToyboxUnet, "references", -1),
        (ToyboxUnet, "stable_from", 1001),
        (ToyboxUnet, "text_margin", 1.5),
        (ToyboxAutoencoder, "kl", -1e-5),
        (ToyboxAutoencoder, "edges", float("nan")),
        (ToyboxImageTower, "lr", -1.0),
        *((ToyboxImageTower, name, -1) for name in ("warmup", "decay", "seed")),
        *((ToyboxData, name, 0) for name in ("batch_size", "train", "held_out")),
        *((ToyboxData, name, -1) for name in ("seed", "workers")),
        *((ToyboxData, name, 1.5) for name in ("no_view", "empty")),
    ],
)
def test_an_option_out_of_range_is_named(build, option, value):
    key = "data" if build is ToyboxData else "model"
    with pytest.raises(InputError, match=rf"{key}\.{option}: "):
        build(**{option: value})


def make(tmp_path, *words):
    """The commands that `make prior` would run in a folder."""
    (tmp_path / ".venv").mkdir(exist_ok=True)
    (tmp_path / ".venv" / ".ready").touch()
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv" / ".ready").touch()
    done = subprocess.run(
        ["make", "--dry-run", "--file", ROOT / "Makefile", "prior", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line for line in done.stdout.replace("\\\n", "").splitlines() if "vsd fit" in line or "half" in line]


def test_make_prior_runs_all_parts_in_order_and_resumes_where_it_stopped(tmp_path):
    whole = make(tmp_path)
    configs = [f"configs/toybox/{part}.yaml" for part in ("autoencoder", "prior", "image_tower")]
    assert len(whole) == 4 and all(config in line for config, line in zip(configs, whole, strict=False))
    assert not any("--ckpt_path" in line or "cuda" in line for line in whole)
    assert all("--trainer.devices=2 --trainer.strategy=ddp" in line for line in whole[:3])
    assert not any("devices" in line for line in make(tmp_path, "PROCESSES=1"))
    assert "toybox.prior.half runs/prior runs/prior-half" in whole[3]

    training = tmp_path / "runs" / "prior-training"
    for name in ("autoencoder/done", "autoencoder/last.ckpt", "prior/last.ckpt"):
        (training / name).parent.mkdir(parents=True, exist_ok=True)
        (training / name).touch()
    rest = make(tmp_path, "DEVICE=cuda")
    assert len(rest) == 3 and "configs/toybox/prior-cuda.yaml" in rest[0] and "devices" not in rest[0]
    assert "--ckpt_path runs/prior-training/prior/last.ckpt" in rest[0] and "--ckpt_path" not in rest[1]

    for part in ("prior", "image_tower"):
        (training / part).mkdir(exist_ok=True)
        (training / part / "done").touch()
    (tmp_path / "runs" / "prior-half").mkdir()
    (tmp_path / "runs" / "prior-half" / "model_index.json").touch()
    assert make(tmp_path) == []


def test_make_prior_trains_in_bfloat16_only_where_the_device_multiplies_it(tmp_path):
    flags = Path("/proc/cpuinfo")
    has = flags.exists() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text().split())
    cases = {"": "bf16-mixed" if has else "32-true", "DEVICE=cuda": "bf16-mixed", "PRECISION=16-mixed": "16-mixed"}
    for words, precision in cases.items():
        assert all(f"--trainer.precision={precision} " in line for line in make(tmp_path, *words.split())[:3])


@pytest.mark.parametrize("part", TRAINED)
def test_the_configuration_for_a_gpu_fits_on_top_of_its_part(part, tmp_path, capsys):
    more = ["--config", str(ROOT / "configs" / "toybox" / f"{part}-cuda.yaml"), "--trainer.accelerator=cpu"]
    words = arguments(part, tmp_path / "prior", batch_size=64)
    with pytest.raises(SystemExit) as ended:
        from lightning_modules.cli import main

        main([*words[:3], *more, *words[3:], "--print_config"])
    assert ended.value.code == 0 and "workers: 12" in capsys.readouterr().out
