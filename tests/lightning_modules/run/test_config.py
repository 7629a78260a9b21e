import os

import pytest
import torch
import yaml
from jsonargparse import Namespace

from common.errors import InputError
from lightning_modules.run.checkpoints import FORMAT, NEEDED
from lightning_modules.run.config import choose, place, set_wandb_id
from lightning_modules.run.folder import CONFIG, LAST, PREVIOUS

pytestmark = pytest.mark.usefixtures("elsewhere")


def configuration(root=None, checkpoint=None, logger=None, callbacks=None):
    trainer = Namespace(default_root_dir=root, logger=logger, callbacks=callbacks)
    model = Namespace(class_path="lightning_modules.nerf.NerfStage")
    return Namespace(trainer=trainer, model=model, prompt="a red car", ckpt_path=checkpoint, config=None)


def saved(path, age=0):
    """A checkpoint that was written `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    marker = {"vsd": {"format": FORMAT, "stage": "NerfStage"}}
    torch.save(marker | dict.fromkeys(NEEDED, {}) | {"global_step": 40}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def part(name, **arguments):
    return Namespace(class_path=name, init_args=Namespace(**arguments))


def test_a_checkpoint_leads_to_its_run(elsewhere):
    last = saved(elsewhere / "run" / LAST)
    assert choose(configuration(checkpoint=str(last)), True)[0].fresh, "no run: a new one starts from it"
    (elsewhere / "run" / CONFIG).write_text("prompt: a red car\nckpt_path: null")
    folder, checkpoint = choose(configuration(checkpoint="run/checkpoints/last.ckpt"), True)
    assert (folder.path, checkpoint) == (elsewhere / "run", last)
    folder, checkpoint = choose(configuration(root="other", checkpoint=str(last)), True)
    assert (folder.path, checkpoint) == (elsewhere / "other", last)


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again_in_its_folder(elsewhere):
    (elsewhere / "run").mkdir()
    (elsewhere / "run" / CONFIG).write_text("prompt: a red car\nckpt_path: null")
    folder, checkpoint = choose(configuration(root="run", checkpoint="last"), True)
    assert folder.path == elsewhere / "run" and checkpoint is None


def test_a_requeued_job_goes_on_from_its_newest_checkpoint(elsewhere, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    folder, checkpoint = choose(configuration(), True)
    assert checkpoint is None
    saved(folder.path / LAST, age=60)
    newest = saved(folder.path / "hpc_ckpt_1.ckpt", age=10)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again, checkpoint = choose(configuration(), True)
    assert (again.path, checkpoint) == (folder.path, newest)
    named, checkpoint = choose(configuration(root=str(folder.path)), True)
    assert (named.path, checkpoint) == (folder.path, newest), "in a folder that was named, too"


@pytest.mark.parametrize("requeue", [False, True])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_taken_and_a_line_says_so(
    elsewhere, capsys, monkeypatch, damage, requeue
):
    run = elsewhere / "run"
    last, previous = saved(run / LAST, age=10), saved(run / PREVIOUS, age=60)
    (run / CONFIG).write_text("prompt: a red car\nckpt_path: null")
    content = bytearray(last.read_bytes())
    content[content.index(b"global_step")] ^= 1
    last.write_bytes({"cut": content[:-100], "flipped": content, "gone": b""}[damage])
    if requeue:
        monkeypatch.setenv("SLURM_JOB_ID", "5")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    asked = configuration(root=str(run), checkpoint=None if requeue else "last")
    assert choose(asked, True)[1] == previous
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: ckpt_path: ") and str(last) in line and line.endswith(f"{previous}, step 40")
    previous.write_bytes(b"")
    with pytest.raises(InputError, match="\\.ckpt is "):
        choose(asked, True)


def test_a_kill_between_the_renames_of_a_checkpoint_loses_nothing(elsewhere):
    previous = saved(elsewhere / "run" / PREVIOUS)
    assert choose(configuration(root=str(elsewhere / "run"), checkpoint="last"), True)[1] == previous


def test_relative_folders_lie_in_the_run_folder_and_absolute_ones_where_they_say(elsewhere):
    loggers = [part("a.CSVLogger", save_dir="logs"), part("a.WandbLogger", save_dir="."), part("b.C", save_dir="/else")]
    callbacks = [part("a.ModelCheckpoint", dirpath=None), part("a.Other", dirpath="best"), part("a.Plain")]
    given = configuration(logger=loggers, callbacks=callbacks)
    placed = place(given, elsewhere, elsewhere / LAST)
    assert [p.init_args.save_dir for p in placed.trainer.logger] == [f"{elsewhere}/logs", str(elsewhere), "/else"]
    dirs = [p.init_args.get("dirpath") for p in placed.trainer.callbacks]
    assert dirs == [f"{elsewhere}/checkpoints", f"{elsewhere}/best", None]
    assert placed.trainer.default_root_dir == str(elsewhere) and placed.ckpt_path == str(elsewhere / LAST)
    assert given.trainer.logger[0].init_args.save_dir == "logs", "the record stays as it is"


@pytest.mark.parametrize(("logger", "kept"), [(None, None), (True, None), (False, False)])
def test_without_a_logger_metrics_go_to_a_file_unless_there_shall_be_none(elsewhere, logger, kept):
    placed = place(configuration(logger=logger), elsewhere, None).trainer.logger
    assert placed is kept if kept is False else placed.init_args.save_dir == str(elsewhere)


def test_the_record_keeps_the_name_at_wandb(elsewhere):
    def wandb(**more):
        return configuration(logger=part("a.WandbLogger", **{"id": None, "version": None, **more}))

    first, again, named = wandb(), wandb(), wandb(id="mine")
    set_wandb_id(first, elsewhere)
    identity = first.trainer.logger.init_args.id
    (elsewhere / CONFIG).write_text(yaml.safe_dump({"trainer": {"logger": first.trainer.logger.as_dict()}}))
    for config in (again, named):
        set_wandb_id(config, elsewhere)
    assert again.trainer.logger.init_args.id == identity and len(identity) == 8
    assert named.trainer.logger.init_args.id == "mine"
