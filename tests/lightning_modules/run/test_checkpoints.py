from types import SimpleNamespace

import pytest
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.run.checkpoints import LastCheckpoint
from lightning_modules.run.folder import LAST


class Trainer(SimpleNamespace):
    """A trainer that writes its step as the checkpoint."""

    def __init__(self, folder, **more):
        ours = {
            "max_steps": 10,
            "received_sigterm": False,
            "fast_dev_run": False,
            "is_global_zero": True,
            "world_size": 1,
        }
        state = SimpleNamespace(fn=TrainerFn.FITTING)
        module = SimpleNamespace(run_folder=folder)
        strategy = SimpleNamespace(barrier=lambda: None)
        super().__init__(**{**ours, "state": state, "lightning_module": module, "strategy": strategy, **more})
        self.global_step, self.written = 0, []
        (folder / LAST).parent.mkdir()

    def save_checkpoint(self, path, weights_only):
        path.write_text(str(self.global_step))
        self.written.append(self.global_step)


def train(trainer, callback, steps):
    callback.on_train_start(trainer, None)
    for _ in range(steps):
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, None, None, None, 0)
    callback.on_train_end(trainer, None)


@pytest.mark.parametrize(
    ("every", "steps", "written"), [(4, 10, [4, 8, 10]), (5, 10, [5, 10]), (4, 7, [4, 7]), (100, 10, [10])]
)
def test_a_step_is_saved_every_so_often_and_at_the_end_and_never_twice(tmp_path, every, steps, written):
    trainer = Trainer(tmp_path)
    train(trainer, LastCheckpoint(every), steps)
    assert trainer.written == written
    assert [path.name for path in (tmp_path / LAST).parent.iterdir()] == [LAST.name]
    assert (tmp_path / LAST).read_text() == str(written[-1])


def test_a_run_that_makes_no_step_saves_nothing(tmp_path):
    trainer = Trainer(tmp_path)
    train(trainer, LastCheckpoint(1), 0)
    assert trainer.written == []


def test_a_crash_while_saving_leaves_the_checkpoint_before(tmp_path):
    trainer, callback = Trainer(tmp_path), LastCheckpoint(2)
    train(trainer, callback, 2)

    def half(path, weights_only):
        path.write_text("ha")
        raise OSError("no space left on device")

    trainer.save_checkpoint = half
    with pytest.raises(OSError, match="no space"):
        train(trainer, callback, 2)
    assert (tmp_path / LAST).read_text() == "2"


@pytest.mark.parametrize(
    ("error", "fn", "written"),
    [
        (SIGTERMException(), TrainerFn.FITTING, [1]),
        (SIGTERMException(), TrainerFn.TESTING, []),
        (KeyboardInterrupt(), TrainerFn.FITTING, []),
        (ValueError(), TrainerFn.FITTING, []),
    ],
)
def test_only_a_stop_between_two_steps_is_saved(tmp_path, error, fn, written):
    trainer, callback = Trainer(tmp_path, state=SimpleNamespace(fn=fn)), LastCheckpoint(100)
    callback.on_train_start(trainer, None)
    trainer.global_step = 1
    callback.on_exception(trainer, None, error)
    assert trainer.written == written


def test_several_ranks_answer_no_signal_with_a_checkpoint(tmp_path):
    trainer, callback = Trainer(tmp_path, received_sigterm=True, world_size=2), LastCheckpoint(100)
    callback.on_train_start(trainer, None)
    trainer.global_step = 1
    callback.on_train_batch_end(trainer, None)
    callback.on_exception(trainer, None, SIGTERMException())
    assert trainer.written == []
    trainer.world_size = 1
    callback.on_train_batch_end(trainer, None)
    assert trainer.written == [1]
