import resource
import zipfile
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from common.files import is_intact
from lightning_modules.run.folder import LAST, PREVIOUS
from lightning_modules.run.saving import CheckpointFiles, LastCheckpoint, write


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
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=1))
        super().__init__(**{**ours, "state": state, "lightning_module": module, "strategy": strategy, **more})
        self.global_step, self.written = 0, []
        (folder / LAST).parent.mkdir()

    def save_checkpoint(self, path, weights_only):
        self.strategy.checkpoint_io.save_checkpoint({"global_step": self.global_step}, path)


@pytest.fixture(autouse=True)
def plain_text(monkeypatch):
    """Checkpoints of `Trainer` are written as text."""
    replace = CheckpointFiles._replace

    def written(files, checkpoint, path):
        if "global_step" not in checkpoint:
            return replace(files, checkpoint, path)
        files.written = [*getattr(files, "written", []), checkpoint["global_step"]]
        path.write_text(str(checkpoint["global_step"]))

    monkeypatch.setattr(CheckpointFiles, "_replace", written)


def begin(trainer, callback):
    callback.setup(trainer, None, "fit")
    trainer.written = callback.files.written = []
    callback.on_train_start(trainer, None)


def train(trainer, callback, steps, between=lambda: None):
    begin(trainer, callback)
    for _ in range(steps):
        callback.on_train_batch_start(trainer)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, None, None, None, 0)
        between()
    callback.on_train_end(trainer, None)
    trainer.written = callback.files.written


def test_a_checkpoint_is_written_after_the_row_and_the_validation_of_its_step(tmp_path):
    trainer, callback, seen = Trainer(tmp_path), LastCheckpoint(2), []
    train(trainer, callback, 5, between=lambda: seen.append(list(callback.files.written)))
    assert seen == [[], [], [2], [2], [2, 4]] and trainer.written == [2, 4, 5]


def test_an_error_in_validation_does_not_lose_the_checkpoint(tmp_path):
    trainer, callback = Trainer(tmp_path), LastCheckpoint(1)
    begin(trainer, callback)
    trainer.global_step = 1
    callback.on_train_batch_end(trainer)
    assert callback.files.written == []
    callback.on_exception(trainer, None, ValueError())
    assert callback.files.written == [1]


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


def state(value, size=1000):
    return {"state_dict": {"a": torch.full((size,), float(value))}}


def value_of(path):
    return torch.load(path, weights_only=True)["state_dict"]["a"][0].item()


def test_the_checkpoint_before_the_last_is_kept(tmp_path):
    files = CheckpointFiles()
    for value, before in ((1, None), (2, 1), (3, 2)):
        files.save_checkpoint(state(value), tmp_path / LAST)
        assert value_of(tmp_path / LAST) == value
        assert (value_of(tmp_path / PREVIOUS) if before else not (tmp_path / PREVIOUS).exists()) == (before or True)
    names = [path.name for path in (tmp_path / LAST).parent.iterdir()]
    assert sorted(names) == [LAST.name, PREVIOUS.name], "nothing else is left"


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(tmp_path):
    files = CheckpointFiles()
    for value in (1, 2):
        files.save_checkpoint(state(value), tmp_path / LAST)
    flip_a_bit(tmp_path / LAST)
    files.save_checkpoint(state(3), tmp_path / LAST)
    assert (value_of(tmp_path / PREVIOUS), value_of(tmp_path / LAST)) == (1, 3)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_full_disk_leaves_the_checkpoint_before_and_no_part(tmp_path, monkeypatch):
    files = CheckpointFiles()
    files.save_checkpoint(state(1), tmp_path / LAST)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            files.save_checkpoint(state(2, 1_000_000), tmp_path / LAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / LAST).parent.iterdir()] == [LAST.name]
    assert value_of(tmp_path / LAST) == 1


def test_every_flipped_bit_of_the_content_is_found(tmp_path):
    write(state(1, 1000), tmp_path / "good")
    assert is_intact(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    with zipfile.ZipFile(tmp_path / "good") as archive:
        entries = archive.infolist()
    start = {entry.filename: content.index(archive_data(tmp_path / "good", entry)) for entry in entries}
    for entry in entries:
        for offset in {0, entry.file_size // 2, entry.file_size - 1}:
            flipped = bytearray(content)
            flipped[start[entry.filename] + offset] ^= 1
            (tmp_path / "bad").write_bytes(flipped)
            assert not is_intact(tmp_path / "bad"), (entry.filename, offset)
    (tmp_path / "bad").write_bytes(content[:-100])
    assert not is_intact(tmp_path / "bad")


def archive_data(path, entry):
    with zipfile.ZipFile(path) as archive:
        return archive.read(entry)


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
    begin(trainer, callback)
    trainer.global_step = 1
    callback.on_exception(trainer, None, error)
    assert callback.files.written == written
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 1, "as Lightning has counted"


def test_several_ranks_answer_no_signal_with_a_checkpoint(tmp_path):
    trainer, callback = Trainer(tmp_path, received_sigterm=True, world_size=2), LastCheckpoint(100)
    begin(trainer, callback)
    trainer.global_step = 1
    callback.on_train_batch_end(trainer, None)
    callback.on_exception(trainer, None, SIGTERMException())
    assert callback.files.written == []
    trainer.world_size = 1
    callback.on_train_batch_end(trainer, None)
    assert callback.files.written == [1], "at once"
