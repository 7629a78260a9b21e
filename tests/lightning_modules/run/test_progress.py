from types import SimpleNamespace

import pytest
import torch

from lightning_modules.run import progress as module
from lightning_modules.run.progress import StepBar, StepLines, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock.now` is set."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


def at(step, total=600):
    metrics = {"train/loss": torch.tensor(0.25)}
    return SimpleNamespace(global_step=step, max_steps=total, progress_bar_metrics=metrics, is_global_zero=True)


def test_lines_tell_step_loss_speed_and_time_left(clock, capsys):
    lines = StepLines(seconds=10)
    lines.on_train_start(at(100))  # a resumed run
    for step in range(101, 151):
        clock.now = 100 + (step - 100) * 0.5
        lines.on_train_batch_end(at(step), None)
    assert capsys.readouterr().out.splitlines() == [
        "step 120/600  loss 0.25  2.00 steps/s  0:04:00 left",
        "step 140/600  loss 0.25  2.00 steps/s  0:03:50 left",
    ]
    lines.on_train_batch_end(at(600), None)
    assert capsys.readouterr().out.startswith("step 600/600 "), "the last step is told at any time"


def test_lines_of_an_endless_run_have_no_end(clock, capsys):
    lines = StepLines(seconds=0)
    lines.on_train_start(at(0, -1))
    clock.now += 2
    lines.on_train_batch_end(at(1, -1), None)
    assert capsys.readouterr().out == "step 1  loss 0.25  0.50 steps/s\n"


def test_other_ranks_are_silent(clock, capsys):
    lines = StepLines(seconds=0)
    lines.setup(SimpleNamespace(is_global_zero=False), None, "fit")
    lines.on_train_start(at(0))
    lines.on_train_batch_end(at(600), None)
    lines.on_test_start()
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_the_bar(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(progress(), StepBar)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert isinstance(progress(), StepLines)


def test_the_bar_counts_the_steps_of_the_whole_run_and_fetches_metrics_now_and_then(clock):
    bar = StepBar()
    bar._trainer = SimpleNamespace(max_steps=600)
    assert bar.total_train_batches == 600
    seen = []
    for now in (100.0, 100.05, 100.2):
        clock.now = now
        trainer = SimpleNamespace(loggers=[], progress_bar_metrics={"train/loss": torch.tensor(now)})
        seen.append(bar.get_metrics(trainer, None)["loss"])
    assert seen == pytest.approx([100.0, 100.0, 100.2])
