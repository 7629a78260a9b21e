import pickle
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import NERF, SMALL

from common.errors import InputError
from lightning_modules.cli import fault, main
from lightning_modules.run.folder import CONFIG, LAST, RunFolder

pytestmark = pytest.mark.usefixtures("elsewhere")


def said(capsys):
    """The one line of an error, without `vsd: `."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    return line[5:]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 2
    return said(capsys)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data.cameras.distance=[0.5, 2]"], "data.cameras.distance: 0.5 is inside the object"),
        (["--data.cameras.distance=[3, 2]"], "data.cameras.distance: its minimum 3 is above its maximum 2"),
        (["--data.cameras.fovy=[0, 40]"], "data.cameras.fovy: [0.0, 40.0] is not inside (0, 180)"),
        (["--data.cameras.fovy=[40, 180]"], "data.cameras.fovy"),
        (["--data.eval_fovy=180"], "data.eval_fovy"),
        (["--model.particles=0"], "model.particles: 0; at least 1"),
        (["--model.particles_per_step=3"], "model.particles_per_step: 3 is not in 1 ... 2"),
        (["--model.particles_per_step=2"], "1 views cannot be divided evenly among 2 particles"),
        (["--trainer.callbacks=null"], "trainer.callbacks: no guidance"),
        (["--trainer.callbacks.timesteps=[1]"], "trainer.callbacks.timesteps.steps: it is needed, and not given"),
        (["--trainer.callbacks.negative=" + "x" * 3000], "guidance.negative: 3000 characters"),
        (["--trainer.callbacks.overrides={above: fish}"], "guidance.overrides: no view is called 'above'"),
        (["--trainer.devices=0"], "trainer.devices: `Trainer(devices='0')`"),
        (["--trainer.accelerator=tpu"], "trainer.accelerator: "),
        (["--checkpoint.every=0"], "checkpoint.every: 0"),
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches: 2"),
        (["--prompt="], "prompt: it is empty"),
        (["--prompt=../../a red car"], "unknown word"),
        (["--prompt=a red \N{DUCK}"], "unknown word"),
        (["--prompt=" + "x" * 10_000], "10000 characters"),
        (["--prompt=a ${colour} car"], "Interpolation key 'colour' not found"),
        (["--trainer.default_root_dir=/proc/nowhere"], "trainer.default_root_dir: /proc/nowhere cannot be made"),
        (["--trainer.default_root_dir=file"], "trainer.default_root_dir"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["--ckpt_path=last"], "ckpt_path: 'last' of which run?"),
        (["--ckpt_path=last", "--trainer.default_root_dir=nowhere"], "nowhere/checkpoints/last.ckpt does not exist"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(elsewhere, capsys, arguments, named):
    (elsewhere / "file").touch()
    assert named in refused(capsys, "fit", "--config", NERF, *SMALL, *arguments)
    assert [path.name for path in elsewhere.iterdir()] == ["file"]


def test_a_run_is_not_written_over(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    line = refused(capsys, "fit", "--config", NERF, *SMALL, f"--trainer.default_root_dir={whole}")
    assert "holds a run; resume it with --ckpt_path last" in line
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


@pytest.mark.parametrize(("key", "value"), [("prompt", "a red car"), ("seed_everything", "5")])
def test_a_record_is_not_used_for_another_prompt_or_seed(whole, capsys, key, value):
    line = refused(capsys, "fit", "--config", str(whole / CONFIG), f"--{key}={value}")
    assert line.startswith(f"{key}: ") and CONFIG in line
    line = refused(capsys, "fit", "--config", NERF, *SMALL, f"--{key}={value}", f"--ckpt_path={whole / LAST}")
    assert line.startswith(f"{key}: ") and CONFIG in line


@pytest.mark.parametrize("kept", [0, 0.3, 0.5, 0.9, 0.97])
def test_a_record_that_is_cut_short_is_not_resumed_with_the_defaults_of_what_is_missing(whole, elsewhere, capsys, kept):
    folder = shutil.copytree(whole, elsewhere / "run")
    record = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(record[: int(kept * len(record))])
    line = refused(capsys, "fit", "--config", str(folder / CONFIG), "--ckpt_path=last", "--prompt=a red mushroom")
    assert CONFIG in line


def test_a_record_that_is_cut_within_a_value_is_named(whole, elsewhere, capsys):
    folder = shutil.copytree(whole, elsewhere / "run")
    record = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(record[: record.index("deterministic:") + len("deterministic: n")])
    line = refused(capsys, "fit", "--config", str(folder / CONFIG), "--ckpt_path=last")
    assert line.startswith("trainer.deterministic: Expected") and f"(in {folder / CONFIG}; is" in line


def test_a_run_that_is_going_on_is_not_resumed_beside_itself(whole, elsewhere, capsys):
    folder = RunFolder(shutil.copytree(whole, elsewhere / "run"), None)
    folder.reserve()
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    line = refused(capsys, "fit", "--config", str(folder.path / CONFIG), "--ckpt_path=last", "--trainer.max_steps=9")
    assert f"a run is going on in {folder.path}" in line
    assert before == {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    folder.release()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def broken(checkpoint, how, path):
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("no checkpoint")
    elif how == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-1000])
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"vsd": Evil()}))
    elif how == "unsafe":
        torch.save({"vsd": Evil()}, path)
    elif how == "flipped":
        content = bytearray(checkpoint.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
    elif how == "folder":
        path.mkdir()
    else:
        saved = torch.load(checkpoint, weights_only=True)
        if how == "version":
            saved["vsd"]["format"] = 99
        elif how == "stage":
            saved["vsd"]["stage"] = "ImageStage"
        elif how == "foreign":
            del saved["vsd"]
        elif how == "without":
            del saved["callbacks"], saved["loops"]
        elif how == "fresh":
            saved["callbacks"] = {}
        torch.save(saved, path)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        *(("empty", "is no checkpoint"), ("text", "is no checkpoint"), ("pickle", "is no checkpoint")),
        *(("truncated", "is damaged"), ("folder", "does not exist"), ("unsafe", "it was not loaded")),
        *(
            ("version", "has format 99"),
            ("stage", "is of the stage ImageStage"),
            ("foreign", "no checkpoint of a stage"),
            ("without", "has no callbacks, loops"),
            ("fresh", "the checkpoint has no state of the guidance vsd for 'a red mushroom'"),
            ("flipped", "is damaged, its checksums do not fit"),
        ),
    ],
)
def test_a_bad_checkpoint_is_one_line_and_nothing_is_lost(whole, elsewhere, capsys, how, named):
    broken(whole / LAST, how, elsewhere / "bad.ckpt")
    line = refused(capsys, "fit", "--config", NERF, *SMALL, f"--ckpt_path={elsewhere / 'bad.ckpt'}")
    assert named in line and ("bad.ckpt" in line or how == "fresh")
    assert [path.name for path in elsewhere.iterdir()] == ["bad.ckpt"], "nothing of it was executed, nothing is left"


def test_a_checkpoint_of_other_particles_is_named(whole, elsewhere, capsys):
    line = refused(capsys, "fit", "--config", NERF, *SMALL, "--model.particles=3", f"--ckpt_path={whole / LAST}",
                   f"--trainer.default_root_dir={elsewhere / 'new'}")  # fmt: skip
    assert "particles.2" in line and "missing in the checkpoint" in line
    assert not list(elsewhere.iterdir())


def test_a_refused_resume_leaves_the_record_as_it_was(whole, elsewhere, capsys):
    folder = shutil.copytree(whole, elsewhere / "run")
    before = (folder / CONFIG).read_text()
    line = refused(capsys, "fit", "--config", str(folder / CONFIG), "--ckpt_path=last", "--model.particles=3")
    assert "particles.2" in line
    assert (folder / CONFIG).read_text() == before


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def test_a_fault_of_the_input_is_told_from_a_defect():
    assert fault(raised(ValueError("wrapped"), raised(InputError("prompt: it is empty")))) == "prompt: it is empty"
    assert fault(raised(ValueError("wrapped"), raised(KeyError("x")))) is None
    tried = "Union\n  - Problem with given class_path 'a.Logger':\n    `b` is missing.\n  - Expected a bool\nGiven: 1"
    assert fault(raised(ValueError(tried))) == "Problem with given class_path 'a.Logger':     `b` is missing."
