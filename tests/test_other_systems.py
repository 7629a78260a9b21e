"""What Windows and macOS lack is not needed to import the packages, nor on the main path."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules import dream
from lightning_modules.run.place import Place

ROOT = Path(__file__).parents[1]
PACKAGES = ["common", "vsd", "scene", "toybox", "datamodules", "lightning_modules", "evaluation", "gallery"]
# Libraries look at the system for themselves, and are imported before it changes.
IMPORTS = """
import importlib, os, pkgutil, signal, sys
import diffusers, imageio, imageio_ffmpeg, peft, pytorch_lightning, pytorch_lightning.loggers, torch, transformers
import matplotlib.pyplot, pytorch_lightning.callbacks, pytorch_lightning.cli, scipy, trimesh, warp, xatlas
import pytorch_lightning.strategies.launchers.subprocess_script, rich.console, rich.live, rich.progress, wandb
for name in ("fcntl", "resource", "termios", "pwd", "grp", "nerfacc", "tinycudann", "nvdiffrast"):
    sys.modules[name] = None
for name in ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGHUP"):
    delattr(signal, name)
for name in ("fork", "killpg", "getuid"):
    delattr(os, name)
sys.platform = "win32"
seen = []
for package in sys.argv[1:]:
    seen.append(importlib.import_module(package).__name__)
    for module in pkgutil.walk_packages([package], f"{package}."):
        if not module.name.endswith(("__main__", "rasterizer_nvdiffrast")):  # that one is nvdiffrast's own
            seen.append(importlib.import_module(module.name).__name__)
print(len(seen))
"""


def test_everything_is_imported_without_what_is_of_posix_and_without_the_fast_paths():
    command = [sys.executable, "-W", "ignore", "-c", IMPORTS, *PACKAGES]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout.split()[-1]) > 60


@pytest.mark.parametrize(("system", "asked"), [("win32", False), ("darwin", False), ("linux", True)])
def test_a_stage_is_started_with_what_the_system_knows(tmp_path, monkeypatch, system, asked):
    class Process:
        def __init__(self, command, env, preexec_fn):
            assert (preexec_fn is not None) == asked

        def wait(self):
            return 5

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(subprocess, "Popen", Process)
    assert dream.run_stage(dream.Wish("a red car"), Place("nerf"), tmp_path, []) == 5
