import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import PATHS

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
    first.release()
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


def test_a_folder_in_which_a_run_is_going_on_is_refused_and_stays(elsewhere):
    one, two = RunFolder(Path("run"), "a"), RunFolder(Path("run"), "a")
    one.reserve()
    with pytest.raises(InputError, match="^trainer.default_root_dir: a run is going on in .*run; "):
        two.reserve()
    two.discard()
    assert one.path.is_dir(), "the discard of a refused run spares the live one"
    RunFolder(Path("run"), "a").reserve(alone=False)
    one.release()
    two.reserve()
    assert not list(one.path.iterdir()), "a lock is no file"


def test_a_lock_dies_with_its_process_and_what_it_left_is_removed(elsewhere):
    code = "from lightning_modules.run.folder import *; import time; RunFolder(Path('run'), 'a').reserve(); "
    code += "(Path('run') / 'checkpoints').mkdir(); (Path('run') / 'checkpoints' / 'last.ckpt.7.part').touch(); "
    code += "print('ready', flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | PATHS) as run:
        assert run.stdout.readline() == b"ready\n"
        folder = RunFolder(Path("run"), "a")
        with pytest.raises(InputError, match="a run is going on"):
            folder.reserve()
        assert list(elsewhere.rglob("*.part"))
        run.kill()
    folder.reserve()
    assert not list(elsewhere.rglob("*.part"))


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
