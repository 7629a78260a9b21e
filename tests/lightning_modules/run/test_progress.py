import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from lightning_modules.particles import RoundRobin
from lightning_modules.run import progress as module
from lightning_modules.run.place import Place
from lightning_modules.run.progress import StepBar, StepLines, parts, phase, progress
from lightning_modules.run.time_left import Part


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock.now` is set."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


def guided(kind="vsd", warm=0, health=None):
    """A guidance; health: phi's figures."""
    trainer = object() if kind in ("vsd", "esd") else None
    figures = {"phi_ratio": torch.tensor(0.931), "phi_calibration": torch.tensor(1.02)} if health else {}
    core = SimpleNamespace(health=SimpleNamespace(figures=lambda: figures))
    return SimpleNamespace(kind=kind, trainer=trainer, score=SimpleNamespace(warm_start=warm), core=core)


def stage(n=1, m=1, *guidances):
    return SimpleNamespace(order=RoundRobin(n, m), guidances=list(guidances))


def at(step, total=600, milestones=()):
    data = SimpleNamespace(milestones=[SimpleNamespace(step=step) for step in milestones])
    metrics = {"train/loss": torch.tensor(0.25)}
    return SimpleNamespace(
        global_step=step, max_steps=total, progress_bar_metrics=metrics, is_global_zero=True, datamodule=data
    )


def drive(callback, clock, module, first, last, total, seconds=0.5, **more):
    """Trains from one step to another."""
    trainer = at(first, total, **more)
    callback.on_train_start(trainer, module)
    for step in range(first + 1, last + 1):
        clock.now += seconds
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step - 1)


def test_lines_come_every_ten_percent_and_tell_where_the_run_is(clock, capsys):
    drive(StepLines(), clock, stage(1, 1, guided(warm=300, health=True)), 0, 600, 600)
    out = capsys.readouterr().out
    lines = out.splitlines()
    health = "loss 0.25  phi_ratio 0.931  phi_calibration 1.02"
    assert len(lines) == 10 and "\r" not in out
    assert lines[0] == f" 10 %  step 60/600  SDS  {health}  2.00 steps/s  about 0:07:00 left", "VSD's 300 take double"
    assert lines[-2] == f" 90 %  step 540/600  VSD  {health}  2.00 steps/s  0:00:30 left"


def test_lines_of_a_stage_of_dream_count_the_steps_of_all_stages(clock, capsys, monkeypatch):
    here = Place("geometry", 2, 3, before=300, after=[Part(100, phi=True)])
    monkeypatch.setattr(module, "place", lambda: here)
    drive(StepLines(), clock, stage(1, 1, guided("sds")), 0, 100, 100)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(" 70 %  2/3 geometry  step 50/100  SDS") and first.endswith("about 0:02:05 left")
    assert last.startswith(" 80 %  2/3 geometry  step 100/100") and last.endswith("about 0:01:40 left")


def test_a_resumed_run_tells_its_own_speed(clock, capsys):
    drive(StepLines(), clock, stage(), 100, 120, 600)
    assert capsys.readouterr().out == " 20 %  step 120/600  loss 0.25  2.00 steps/s  0:04:00 left\n"


def test_particles_are_named_where_there_are_several(clock, capsys):
    drive(StepLines(), clock, stage(4, 2), 0, 10, 10)
    lines = capsys.readouterr().out.splitlines()
    assert "particles " in lines[0] and lines[0].split("particles ")[1].split("  ")[0].endswith(" of 4")
    told = [{int(i) for i in line.split("particles ")[1].split(" of")[0].split(", ")} for line in lines]
    assert all(a | b == {0, 1, 2, 3} for a, b in zip(told[::2], told[1::2], strict=True)), "each once per round"


def test_other_ranks_are_silent(clock, capsys):
    lines = StepLines()
    lines.setup(SimpleNamespace(is_global_zero=False), None, "fit")
    drive(lines, clock, stage(), 0, 600, 600)
    lines.on_test_start()
    assert capsys.readouterr().out == ""


def test_a_stage_ends_its_parts_where_phi_begins_and_where_the_resolution_changes():
    of = stage(2, 1, guided(warm=10))
    assert parts(of, at(0, 100, milestones=[0, 30, 100])) == [Part(20, False), Part(10, True), Part(70, True)]
    assert parts(stage(1, 1, guided("sds")), at(0, 100)) == [Part(100, False)]
    assert parts(stage(1, 1, guided(warm=200)), at(0, 100)) == [Part(100, False)]


@pytest.mark.parametrize(
    ("kind", "warm", "particle_step", "name"),
    [("vsd", 5, 4, "SDS"), ("vsd", 5, 5, "VSD"), ("csd", 5, 0, "CSD"), ("esd", 0, 0, "ESD")],
)
def test_the_phase_is_what_moves_the_particle(kind, warm, particle_step, name):
    assert phase(guided(kind, warm), particle_step) == name


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_the_bar_and_quiet_nothing(monkeypatch, terminal):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    assert isinstance(progress(), StepBar if terminal else StepLines)
    assert progress().is_enabled if terminal else progress().enabled
    monkeypatch.setattr(module, "place", lambda: Place(quiet=True))
    assert not (progress().is_enabled if terminal else progress().enabled)


@pytest.mark.parametrize("number", [2, 3])
def test_the_bar_covers_all_stages_and_vanishes_where_another_follows(clock, monkeypatch, number):
    here = Place("geometry", number, 3, before=300, after=[Part(100, True)] * (3 - number))
    monkeypatch.setattr(module, "place", lambda: here)
    out = io.StringIO()
    monkeypatch.setattr(
        "pytorch_lightning.callbacks.progress.rich_progress.get_console",
        lambda: Console(file=out, force_terminal=True, width=200),
    )
    bar, of = StepBar(), stage(1, 1, guided(health=True))
    trainer = at(0, 100)
    vars(trainer).update(current_epoch=0, training=True, sanity_checking=False, progress_bar_callback=bar)
    trainer.state, bar._trainer = SimpleNamespace(fn="fit"), trainer
    bar.on_train_start(trainer, of)
    bar.on_train_epoch_start(trainer, of)
    for step in range(1, 51):
        clock.now += 0.5
        trainer.global_step = step
        bar.on_train_batch_end(trainer, of, None, None, step - 1)
    bar.progress.refresh()
    total = 400 + 100 * (3 - number)
    assert bar.train_progress_bar.total == total and bar.train_progress_bar.completed == 350
    assert f"{number}/3 geometry" in out.getvalue() and "step 50/100  VSD  2.00 steps/s" in out.getvalue()
    assert "phi_ratio 0.931" in out.getvalue() and f"{100 * 350 / total:.0f} %" in out.getvalue()
    before = len(out.getvalue())
    bar.teardown(trainer, of, "fit")
    assert ("\x1b[2K" in out.getvalue()[before:].rpartition("left")[2]) == (number < 3), "the lines are erased"
