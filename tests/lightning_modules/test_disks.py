"""Full and read-only disks, and run folders that vanish: one line, the last good state intact."""

import shutil

import pytest
import torch
from small_disk import read_only, resize, small_disk
from small_runs import GEOMETRY, NERF, SMALL, TEXTURE, UNSEEN, assert_same_end, resume

from common.files import is_intact
from lightning_modules import dream, export
from lightning_modules.cli import main
from lightning_modules.geometry import GeometryStage
from lightning_modules.run.folder import LAST
from lightning_modules.run.pictures import save_picture, save_video
from lightning_modules.texture import TextureStage

pytestmark = pytest.mark.usefixtures("elsewhere")
LINE = ["fit", "--config", NERF, *SMALL]
CHECKPOINT = 34_000  # KiB, of the small run


def ended(capsys, command, *args):
    """The exit code and the one line of a command."""
    with pytest.raises(SystemExit) as end:
        command([*args])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("vsd", "dream: "))]
    return end.value.code, line


def test_a_video_or_picture_that_does_not_fit_on_the_disk_is_named_and_not_left(elsewhere):
    with small_disk(elsewhere / "disk", 8) as disk:
        for write, name in ((save_video, "v.mp4"), (save_picture, "p.png")):
            content = torch.rand(20, 64, 64, 3) if write is save_video else torch.rand(256, 256, 3)
            with pytest.raises(OSError, match="disk is full|disk full|No space left"):
                write(content, disk / name)
            assert not list(disk.iterdir())


def test_a_run_whose_disk_fills_up_keeps_its_checkpoint_and_resumes_to_the_same_bits(whole, elsewhere, capsys):
    with small_disk(elsewhere / "disk", CHECKPOINT + 6000) as disk:
        folder = disk / "run"
        options = ["--trainer.max_steps=8", "--checkpoint.every=4", f"--trainer.default_root_dir={folder}"]
        code, line = ended(capsys, main, *LINE, *options, "--trainer.val_check_interval=4")
        assert code == 1 and "No space left on device; resume: vsd fit --config disk/run/config.yaml" in line
        assert is_intact(folder / LAST) and not list(disk.rglob("*.part"))
        resize(disk, 4 * CHECKPOINT)
        resume(folder, UNSEEN)
        assert_same_end(folder, whole)


def test_a_disk_without_room_for_the_first_file_ends_the_run_in_one_line(elsewhere, capsys):
    with small_disk(elsewhere / "disk", 16) as disk:
        (disk / "full").write_bytes(bytes(16 * 1024))
        code, line = ended(capsys, main, *LINE, "--trainer.max_steps=1", f"--trainer.default_root_dir={disk / 'run'}")
        assert code == 1 and "No space left on device" in line
        assert [path.name for path in disk.iterdir()] == ["full"]
        code, line = ended(capsys, dream.main, "a red car", "--out", str(disk / "run"))
        assert code == 1 and "No space left on device" in line
        assert [path.name for path in disk.iterdir()] == ["full"]


def test_a_read_only_disk_is_refused_by_the_option_that_names_it(elsewhere, capsys):
    with small_disk(elsewhere / "disk", 100) as disk:
        read_only(disk)
        code, line = ended(capsys, main, *LINE, "--trainer.max_steps=1", f"--trainer.default_root_dir={disk / 'run'}")
        assert code == 2 and line.startswith("vsd: trainer.default_root_dir: ") and "Read-only" in line
        code, line = ended(capsys, dream.main, "a red car", "--out", str(disk / "run"))
        assert code == 2 and line.startswith("dream: --out: ") and "Read-only" in line
        read_only(disk, on=False)


@pytest.mark.parametrize("step", [0, 2])
def test_a_run_folder_that_is_removed_ends_the_run_and_is_not_made_anew(elsewhere, capsys, step):
    removal = ["--trainer.callbacks+=small_runs.Remove", f"--trainer.callbacks.step={step}"]
    folder = ["--checkpoint.every=1", f"--trainer.default_root_dir={elsewhere / 'run'}"]
    code, line = ended(capsys, main, *LINE, "--trainer.max_steps=4", UNSEEN, *removal, *folder)
    assert code == 1 and "run: the folder was removed while the run went on" in line and "resume" not in line
    assert not (elsewhere / "run").exists()


def fill(folder, kib):
    """Leaves some KiB of a file system."""
    disk = shutil.disk_usage(folder)
    (folder / "filler").write_bytes(bytes(max(0, disk.free - 1024 * kib)))


def filling(monkeypatch, stage, hook, disk, kib):
    """Has a disk fill up before a hook of a stage."""
    before = getattr(stage, hook)

    def full(*arguments):
        fill(disk, kib)
        return before(*arguments)

    monkeypatch.setattr(stage, hook, full)


def test_a_disk_that_fills_up_in_the_geometry_stage_leaves_its_checkpoint(
    whole, geometry, elsewhere, capsys, monkeypatch
):
    with small_disk(elsewhere / "disk", CHECKPOINT) as disk:
        options = [
            "--checkpoint.every=2",
            "--trainer.val_check_interval=4",
            f"--trainer.default_root_dir={disk / 'run'}",
        ]
        with monkeypatch.context() as patch:
            filling(patch, GeometryStage, "on_validation_epoch_end", disk, 4)
            line = [str(NERF).replace("nerf.yaml", "geometry.yaml"), *GEOMETRY, f"--model.nerf={whole}", *options]
            code, line = ended(capsys, main, "fit", "--config", *line, "--trainer.max_steps=4")
        assert code == 1 and "No space left on device; resume: vsd fit --config disk/run/config.yaml" in line
        assert is_intact(disk / "run" / LAST) and not list(disk.rglob("*.part"))
        (disk / "filler").unlink()
        resume(disk / "run", UNSEEN)
        assert_same_end(disk / "run", geometry)


def test_a_disk_that_fills_up_at_the_export_of_meshes_leaves_no_half_file_and_the_run_resumes(
    whole, geometry, elsewhere, capsys, monkeypatch
):
    with small_disk(elsewhere / "disk", CHECKPOINT) as disk:
        run = disk / "run"
        options = [f"--model.nerf={whole}", f"--model.geometry={geometry}", f"--trainer.default_root_dir={run}"]
        line = [str(NERF).replace("nerf.yaml", "texture.yaml"), *TEXTURE, *options, "--trainer.limit_val_batches=0"]
        line, files = ["fit", "--config", *line, "--trainer.max_steps=1", UNSEEN], []
        for kib in (8, 300):  # none of the files fits, or some of them
            with monkeypatch.context() as patch:
                filling(patch, TextureStage, "on_fit_end", disk, kib)
                code, said = ended(capsys, main, *line)
            assert code == 2 and "/mesh-particle0." in said and "(No space left on device)" in said
            assert is_intact(run / LAST) and not list(disk.rglob("*.part"))
            files.append(sorted(path.suffix for path in run.glob("mesh-particle*")))
            (disk / "filler").unlink()
            line = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", "last"]
        assert files[0] == [] and files[1] and ".obj" not in files[1], "the OBJ, which names the others, comes last"
        resume(run, UNSEEN)
        assert len(list(run.glob("mesh-particle*"))) == 8


def test_vsd_export_to_a_full_disk_leaves_no_half_file(geometry, elsewhere, capsys):
    with small_disk(elsewhere / "disk", 16) as disk:
        code, line = ended(capsys, export.main, str(geometry), "--out", str(disk), "--format", "ply")
        assert code == 2 and "disk/mesh-particle0.ply: cannot be written (No space left on device)" in line
        assert not list(disk.iterdir())
