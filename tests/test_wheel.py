"""The package as users get it: a wheel, installed in an environment of its own, used outside of the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--data.eval_frames=2", "--data.validation_frames=1", "--data.eval_resolution=16"),
    *("--data.milestones=[{step: 0, resolution: 16, batch_size: 1}]", "--trainer.accelerator=cpu"),
]


def run(*command, cwd, **more):
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, timeout=600, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an environment with the wheel, which sees the packages of this one but not the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".git", ".venv", "runs", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder / "source", ignore=skip)
    pip = sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source", cwd=folder)
    shutil.rmtree(folder / "source")
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path alone: the .pth files in that folder, among them that of an editable install, are not read.
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment


def test_the_package_comes_from_the_wheel(installed, tmp_path):
    program = "import toybox, vsd.prior; print(toybox.__file__); print(vsd.prior.toybox_folder())"
    for line in run(installed / "bin" / "python", "-c", program, cwd=tmp_path).splitlines():
        assert Path(line).is_relative_to(installed)


def test_vsd_trains_with_an_installed_configuration(installed, tmp_path):
    config = installed / "share" / "prolific" / "configs" / "toybox" / "nerf.yaml"
    run(installed / "bin" / "vsd", "fit", "--config", config, *SMALL, "--trainer.max_steps=1", cwd=tmp_path)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert checkpoint.is_relative_to(tmp_path / "runs" / "a-red-mushroom")


def test_dream_finds_its_presets(installed, tmp_path):
    assert "--preset" in run(installed / "bin" / "dream", "--help", cwd=tmp_path)
    program = "from lightning_modules.wish import PRESETS, STAGES, config_of; "
    program += "print(*(config_of(preset, stage) for preset in PRESETS for stage in STAGES), sep='\\n')"
    files = run(installed / "bin" / "python", "-c", program, cwd=tmp_path).splitlines()
    assert len(files) == 15 and all(Path(file).is_relative_to(installed) and Path(file).exists() for file in files)
