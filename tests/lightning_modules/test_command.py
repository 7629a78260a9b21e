import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_runs import LOOKS, NERF, PATHS, SMALL, UNSEEN, assert_same_end, at, fit, resume

from lightning_modules.cli import run
from lightning_modules.nerf import NerfStage
from lightning_modules.run import saving
from lightning_modules.run.checkpoints import FORMAT
from lightning_modules.run.folder import CONFIG, LAST
from lightning_modules.run.ranks import RankLauncher

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_everything_of_a_run_lies_in_its_folder(whole):
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    strips = [f"validation/particle{i}-step00000{step}.png" for i in range(2) for step in (4, 8)]
    phi = {name for name in names if name.startswith("phi/")}
    assert names - phi == {CONFIG, str(LAST), "metrics.csv", *LOOKS, *strips} and phi


def test_a_fresh_run_gets_a_folder_with_the_prompts_name(elsewhere, capsys):
    fit("--prompt", "a red car", UNSEEN, "--trainer.limit_val_batches=0", steps=1)
    (folder,) = (elsewhere / "runs" / "a-red-car").iterdir()
    assert (folder / CONFIG).exists() and list(elsewhere.iterdir()) == [elsewhere / "runs"]
    said = capsys.readouterr().out
    assert f"run folder: runs/a-red-car/{folder.name}" in said
    assert "warning: trainer.max_steps: in 1 steps each of 2 particles makes 0 of the 900 steps" in said
    assert not list(folder.glob("turntable*")), "no test batches, no turntable"


def test_the_record_starts_the_same_run_again_elsewhere(whole, elsewhere):
    record = yaml.safe_load((whole / CONFIG).read_text())
    assert record["trainer"]["default_root_dir"] is None and record["ckpt_path"] is None
    assert str(whole) not in (whole / CONFIG).read_text()
    run(["fit", "--config", str(whole / CONFIG), UNSEEN])
    (folder,) = (elsewhere / "runs" / "a-red-mushroom").iterdir()
    assert_same_end(whole, folder)


def test_a_checkpoint_holds_plain_values_and_no_frozen_weights(whole):
    saved = torch.load(whole / LAST, weights_only=True)
    assert saved["vsd"].keys() == {"format", "stage", "field", "rounds"} and saved["global_step"] == 8
    assert (saved["vsd"]["format"], saved["vsd"]["stage"], saved["vsd"]["field"]["hidden"]) == (FORMAT, "NerfStage", 8)
    assert {name.split(".")[0] for name in saved["state_dict"]} == {"particles"}
    kinds = (dict, list, tuple, str, int, float, bool, type(None), torch.Tensor)

    def plain(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return isinstance(value, kinds) and all(map(plain, inner))

    assert plain(saved) and "hyper_parameters" not in saved
    numbers = sum(p.numel() for p in saved["state_dict"].values())
    assert (whole / LAST).stat().st_size < 4 * 3 * numbers + 8e6, "particles, two moments of Adam, phi"


def record(folder):
    """The pictures and numbers that a run has left: names, and the rows of metrics.csv."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}, (folder / "metrics.csv").read_text()


@pytest.mark.parametrize(("step", "validation"), [(5, False), (4, True), (8, True)])
def test_a_killed_run_resumes_bit_exact_with_all_pictures_and_rows(whole, elsewhere, step, validation):
    folder = elsewhere / "killed"
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", "--config", NERF, *SMALL, "--trainer.max_steps=8"]
    command += ["--checkpoint.every=2", f"--trainer.default_root_dir={folder}", *at(step, signal.SIGKILL, validation)]
    command += ["--trainer.val_check_interval=4"]
    environment = os.environ | PATHS | {"SIGNALS": "yes"}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == (step - 2 if validation else 4)
    resume(folder)
    assert_same_end(whole, folder)
    assert record(folder) == record(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_the_step_it_is_in_and_says_how_to_resume(whole, monkeypatch, capsys, number, code):
    monkeypatch.setenv("SIGNALS", "yes")
    with pytest.raises(SystemExit) as ended:
        fit(*at(4, number), steps=8)
    assert ended.value.code == code and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.delenv("SIGNALS")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    assert len(said) == 1 and "stopped at step 5" in said[0]
    words = said[0].partition("resume: vsd ")[2].split()
    run([*words, UNSEEN])
    assert_same_end(whole, Path(words[2]).parent)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "validation_step"])
def test_a_signal_waits_for_the_validation_of_its_step_which_the_resumed_run_does_not_repeat(
    elsewhere, monkeypatch, hook
):
    inner, sent = getattr(NerfStage, hook), []

    def hit(stage, *more):
        if stage.global_step == (1 if hook == "on_train_batch_start" else 2) and not sent:
            sent.append(signal.raise_signal(signal.SIGTERM))
        return inner(stage, *more)

    monkeypatch.setattr(NerfStage, hook, hit)
    options = "--data.validation_frames=2", "--trainer.val_check_interval=2", f"--trainer.default_root_dir={elsewhere}"
    with pytest.raises(SystemExit) as end:
        fit(*options, steps=4)
    assert sent and end.value.code == 143 and torch.load(elsewhere / LAST, weights_only=True)["global_step"] == 2
    with Image.open(elsewhere / "validation" / "particle0-step000002.png") as strip:
        assert strip.height == 2 * 16, "both frames"
    run(["fit", "--config", str(elsewhere / CONFIG), "--ckpt_path", "last", UNSEEN])
    with open(elsewhere / "metrics.csv", newline="") as file:
        trained = [int(row["step"]) for row in csv.DictReader(file) if row["train/guidance"]]
    assert trained == [0, 1, 2, 3], "each step has its row, under its own number"


def ended(capsys, function, *arguments, **more):
    """Exit code and error line of a command that ends with one."""
    with pytest.raises(SystemExit) as end:
        function(*arguments, **more)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    return end.value.code, line


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_in_start_up_is_one_line_and_leaves_nothing(elsewhere, capsys, monkeypatch, number, code, word):
    monkeypatch.setattr(NerfStage, "configure_model", lambda _: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert ended(capsys, fit, steps=8) == (code, f"vsd: {word}")
    assert not list(elsewhere.iterdir())
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


@pytest.mark.parametrize(
    ("hook", "number", "code", "word"),
    [
        ("on_test_epoch_end", signal.SIGINT, 130, "interrupted"),
        ("test_step", signal.SIGTERM, 143, "terminated"),  # the turntable
        ("on_fit_end", signal.SIGTERM, 143, "terminated"),  # an export
        ("on_fit_end", signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_after_training_is_answered_at_once_with_the_command_that_resumes(
    whole, elsewhere, capsys, monkeypatch, hook, number, code, word
):
    folder = shutil.copytree(whole, elsewhere / "run")
    before, seen = signal.getsignal(signal.SIGINT), []

    def hit(*_):
        signal.raise_signal(number)
        seen.append("it went on")

    monkeypatch.setattr(NerfStage, hook, hit)
    line = f"vsd: {word}; resume: vsd fit --config run/{CONFIG} --ckpt_path last"
    assert ended(capsys, resume, folder) == (code, line) and not seen
    assert signal.getsignal(signal.SIGINT) == before and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_while_training_ends_is_answered_before_the_turntable(whole, elsewhere, capsys, monkeypatch):
    folder = shutil.copytree(whole, elsewhere / "run")
    monkeypatch.setattr(NerfStage, "on_train_end", lambda _: signal.raise_signal(signal.SIGTERM))
    line = f"vsd: terminated; resume: vsd fit --config run/{CONFIG} --ckpt_path last"
    assert ended(capsys, resume, folder, "--trainer.max_steps=9") == (143, line)
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 9


class Waited(RankLauncher):
    """A launcher whose other ranks end never, to whose waiting a signal comes."""

    def __init__(self, number):
        self.number = number

    def wait(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_to_the_first_rank_that_waits_for_the_others_is_one_line(
    whole, elsewhere, capsys, monkeypatch, number, code, word
):
    folder = shutil.copytree(whole, elsewhere / "run")
    launch = lambda stage: setattr(stage.trainer.strategy, "_launcher", Waited(number))  # noqa: E731
    monkeypatch.setattr(NerfStage, "on_test_end", launch)
    line = f"vsd: {word}; resume: vsd fit --config run/{CONFIG} --ckpt_path last"
    assert ended(capsys, resume, folder) == (code, line)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(whole, elsewhere, capsys, monkeypatch):
    folder = shutil.copytree(whole, elsewhere / "run")
    before = (folder / LAST).read_bytes()

    def full(checkpoint, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(saving, "write", full)
    code, line = ended(capsys, resume, folder, "--trainer.max_steps=9", UNSEEN)
    assert code == 1 and "No space left on device; resume: vsd fit --config run/" in line
    assert (folder / LAST).read_bytes() == before and not list(folder.rglob("*.part"))


def test_a_run_goes_on_after_its_end_as_if_it_had_not_ended(whole, elsewhere):
    fit(UNSEEN, f"--trainer.default_root_dir={elsewhere}", steps=3)
    resume(elsewhere, UNSEEN, "--trainer.max_steps=8")
    assert_same_end(whole, elsewhere)
    steps = [line.split(",")[0] for line in (elsewhere / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", *"01234567"]


def test_resuming_a_finished_run_only_looks_at_it_again(whole, elsewhere):
    shutil.copytree(whole, elsewhere / "copy")
    for file in (elsewhere / "copy").glob("turntable*"):
        file.unlink()
    resume(elsewhere / "copy")
    assert_same_end(whole, elsewhere / "copy")
    assert len(list((elsewhere / "copy").glob("turntable*"))) == 2


@pytest.mark.parametrize("words", [["--ckpt_path", "last"], ["--ckpt_path", str(LAST)]])
def test_the_turntable_of_a_run_can_be_made_again(whole, elsewhere, words, monkeypatch, capsys):
    shutil.copytree(whole, elsewhere / "copy")
    monkeypatch.chdir(elsewhere / "copy")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*.*")}
    run(["test", "--config", CONFIG, *words])
    assert capsys.readouterr().out.count("backends: dense grid torch") == 1
    changed = {str(path) for path in Path().rglob("*.*") if before.get(path) != path.stat().st_mtime_ns}
    assert changed == {
        f"{kind}-particle{i}.{end}" for kind, end in (("turntable", "mp4"), ("contact", "png")) for i in (0, 1)
    }


def test_a_camera_path_is_rendered_as_pictures_and_a_video_of_each_particle(whole, elsewhere, capsys):
    folder = shutil.copytree(whole, elsewhere / "copy")
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    run(["predict", "--config", str(folder / CONFIG), "--ckpt_path", "last", "--data.eval_frames=3"])
    assert "rendering the camera path" in capsys.readouterr().out
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - set(map(str, before))
    frames = {f"predict/particle{i}/000{k}.png" for i in range(2) for k in range(3)}
    assert files == frames | {"predict/particle0.mp4", "predict/particle1.mp4"}
    assert iio.imread(folder / "predict" / "particle1.mp4", plugin="FFMPEG").shape == (3, 16, 16, 3)
    colours = [iio.imread(folder / frame) for frame in sorted(frames)]
    assert colours[0].shape == (16, 16, 3) and not (colours[0] == colours[1]).all(), "the camera moves"
    with Image.open(folder / "validation" / "particle0-step000008.png") as strip:
        assert (colours[0] == np.asarray(strip)[:16, :16]).all(), "the first camera is validation's"
