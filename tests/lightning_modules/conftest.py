import sys

import pytest
from small_runs import fit, fit_after


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and a program without arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vsd"])
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of an uninterrupted small run of 8 steps with the shipped prior."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vsd"])
        fit(f"--trainer.default_root_dir={folder}", "--trainer.val_check_interval=4", steps=8)
    return folder


@pytest.fixture(scope="session")
def geometry(whole, tmp_path_factory):
    """The folder of an uninterrupted small run of the geometry stage, 4 steps, after `whole`."""
    folder = tmp_path_factory.mktemp("geometry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vsd"])
        fit_after("geometry", whole, f"--trainer.default_root_dir={folder}", "--trainer.val_check_interval=4", steps=4)
    return folder
