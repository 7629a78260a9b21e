import re
from pathlib import Path

import pytest

from common.errors import InputError
from lightning_modules.run.folder import CONFIG, DREAM, RunFolder, name_of, resume_command

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red mushroom", "a-red-mushroom"),
        ("../../etc/passwd", "etc-passwd"),
        ("/root", "root"),
        ("a \N{DUCK} duck", "a-duck"),
        ("\N{DUCK}", "unnamed"),
        ("", "unnamed"),
        (None, "unnamed"),
        (" . ", "unnamed"),
        ("Crème Brûlée\n2", "creme-brulee-2"),
        ("-rf *", "rf"),
        ("x" * 10_000, "x" * 40),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_a_name_is_safe_and_short_whatever_the_prompt(prompt, name):
    assert name_of(prompt) == name


def test_fresh_folders_lie_below_runs_and_never_meet(elsewhere):
    folders = [RunFolder(None, "a red car") for _ in range(3)]
    for folder in folders:
        folder.reserve()
    paths = [folder.path for folder in folders]
    assert len(set(paths)) == 3 and all(path.is_dir() for path in paths)
    assert re.fullmatch(r"runs/a-red-car/\d{8}-\d{6}(-\d)?", str(paths[1].relative_to(elsewhere)))


def test_a_requeued_slurm_job_finds_its_folder(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first, other = RunFolder(None, "a"), RunFolder(None, "a")
    first.reserve()
    other.reserve()
    assert first.path.name == "job-77" and other.path.name == "job-77-2", "two runs of one job"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = RunFolder(None, "a")
    again.reserve()
    assert again.path == first.path


def test_discard_leaves_the_disk_as_it_was(elsewhere):
    (elsewhere / "empty").mkdir()
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "note").touch()
    for path, left in ((None, None), ("new/deep", None), ("empty", []), ("full", ["note", "run.log"])):
        folder = RunFolder(path and Path(path), "a")
        folder.reserve()
        (folder.path / "run.log").touch()
        folder.discard()
        assert (sorted(p.name for p in folder.path.iterdir()) if folder.path.exists() else None) == left
    assert sorted(p.name for p in elsewhere.iterdir()) == ["empty", "full"], "parents that were made are gone"


def test_discard_spares_the_runs_beside_it():
    one, two = RunFolder(None, "a"), RunFolder(None, "a")
    one.reserve()
    two.reserve()
    one.discard()
    assert two.path.is_dir() and not one.path.exists()


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_named(elsewhere, path):
    (elsewhere / "file").touch()
    with pytest.raises(InputError, match=f"^--out: .*{path}.* cannot be made"):
        RunFolder(Path(path), None, "--out").reserve()


def test_a_folder_that_is_not_writable_is_named(elsewhere, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(InputError, match="is not writable"):
        RunFolder(elsewhere / "new", None).reserve()


def test_the_command_that_resumes_knows_dream(elsewhere):
    folder = elsewhere / "a run" / "nerf"
    folder.mkdir(parents=True)
    assert resume_command(folder) == f"vsd fit --config 'a run/nerf/{CONFIG}' --ckpt_path last"
    (folder.parent / DREAM).touch()
    assert resume_command(folder) == "dream --resume 'a run'"
