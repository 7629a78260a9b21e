import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_modules.cli import main
from toybox.prior.training import save_half, warm_hold_decay
from vsd.prior import load_pipeline

ROOT = Path(__file__).parents[2]
SMALL = ["--data.train=96", "--data.held_out=96", "--data.batch_size=8", "--trainer.max_steps=2"]
QUIET = [
    "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=1",
    "--trainer.precision=32-true",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    """LightningCLI warns when it gets arguments from both pytest's command line and a call."""
    monkeypatch.setattr(sys, "argv", ["vsd"])


def fit(config, folder, *more):
    out = f"--trainer.logger.init_args.save_dir={folder.parent / 'logs'}"
    root = f"--trainer.default_root_dir={folder.parent}"
    main(
        [
            "fit",
            "--config",
            str(ROOT / "configs" / "toybox" / config),
            f"--model.folder={folder}",
            root,
            out,
            *SMALL,
            *QUIET,
            *more,
        ]
    )


def weights(folder, part):
    return getattr(load_pipeline(folder), part).state_dict()


@pytest.mark.parametrize(
    ("config", "trained", "kept"),
    [
        ("autoencoder.yaml", ["vae"], ["unet", "text_encoder", "image_encoder"]),
        ("image_tower.yaml", ["image_encoder"], ["vae", "unet", "text_encoder"]),
        ("prior.yaml", ["unet", "text_encoder"], ["vae", "image_encoder"]),
    ],
)
def test_two_steps_through_the_command_train_their_part_alone(config, trained, kept, untrained_prior, cache, tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    more = {
        "prior.yaml": [f"--trainer.callbacks.dirpath={tmp_path / 'checkpoints'}"],
        "image_tower.yaml": ["--data.group=4"],
    }.get(config, [])
    fit(config, folder, *more)
    for part in trained:
        before, after = weights(untrained_prior, part), weights(folder, part)
        assert any(not torch.equal(before[k], after[k]) for k in before), f"{part} must learn"
        assert all(torch.isfinite(v).all() for v in after.values())
    for part in kept:
        before, after = weights(untrained_prior, part), weights(folder, part)
        assert all(torch.equal(before[k], after[k]) for k in before), f"{part} must stay as it is"
    if "vae" in trained:
        assert load_pipeline(folder).vae.config.scaling_factor != 0.18215


def test_the_decoder_alone_keeps_the_latents(untrained_prior, cache, tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    fit("autoencoder.yaml", folder, "--model.decoder_only=true")
    before, after = weights(untrained_prior, "vae"), weights(folder, "vae")
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert "decoder" in changed and not changed & {"encoder", "quant_conv"}


def test_every_weight_of_the_unet_and_the_text_tower_gets_a_gradient(untrained_prior, cache, tmp_path):
    """Inner blocks without one learn nothing, and nothing but the samples shows it."""
    shutil.copytree(untrained_prior, tmp_path / "prior")
    checkpoints = f"--trainer.callbacks.dirpath={tmp_path / 'checkpoints'}"
    fit("prior.yaml", tmp_path / "prior", "--model.warmup=1", "--trainer.callbacks.every_n_train_steps=2", checkpoints)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    moments = saved["optimizer_states"][0]["state"]
    still = [index for index, state in moments.items() if not state["exp_avg_sq"].any()]
    assert len(moments) == len(saved["current_model_state"]) and not still


def test_a_missing_folder_is_made_with_a_linear_start(cache, tmp_path):
    fit("autoencoder.yaml", tmp_path / "new")
    pipeline = load_pipeline(tmp_path / "new")
    assert pipeline.vae.decoder.conv_norm_out.bias.mean() > 1.5


def test_the_half_precision_copy_is_the_same_pipeline(untrained_prior, tmp_path):
    save_half(untrained_prior, tmp_path / "half")
    whole, half = weights(untrained_prior, "unet"), load_pipeline(tmp_path / "half", torch.float16).unet.state_dict()
    assert all(torch.equal(whole[k].half(), half[k]) for k in whole)


def test_the_learning_rate_rises_holds_and_falls():
    factors = [warm_hold_decay(step, 100, 10, 20) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[50] == factors[80] == 1
    assert factors[90] == pytest.approx(0.5) and factors[99] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("argument", "named"),
    [("--data.batch_size=0", "data.batch_size: 0"), ("--model.folder={folder}", "not a pipeline index")],
)
def test_wrong_input_ends_the_command_with_one_line_and_code_2(argument, named, tmp_path, cache):
    (tmp_path / "model_index.json").write_text("{")
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "lightning_modules.cli",
                "fit",
                "--config",
                "configs/toybox/prior.yaml",
                *SMALL[:2],
            ),
            *(f"--trainer.default_root_dir={tmp_path}", f"--trainer.logger.init_args.save_dir={tmp_path}"),
            argument.format(folder=tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert named in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
