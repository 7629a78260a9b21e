from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError
from lightning_modules.nerf import FieldSettings, NerfStage
from lightning_modules.run.pictures import contact_sheet
from vsd.timesteps import Timesteps


def test_the_contact_sheet_takes_even_steps_and_puts_columns_below_each_other():
    frames = [torch.stack([torch.full((2, 4), i + 0.1), torch.zeros(2, 4), torch.zeros(2, 4)], -1) for i in range(60)]
    for frame in frames:
        frame[:, 2:, 1] = 1.0  # the second column
    sheet = contact_sheet(frames, columns=2)
    assert sheet.shape == (4, 16, 3)
    assert sheet[0, ::2, 0].floor().tolist() == [0, 7, 15, 22, 30, 37, 45, 52]
    assert (sheet[:2, :, 1] == 0).all() and (sheet[2:, :, 1] == 1).all()
    assert contact_sheet(frames[:3], columns=2).shape == (4, 6, 3), "no more views than frames"


def test_all_ranks_write_into_the_folder_of_the_first():
    stage = NerfStage(field=FieldSettings(encoding="dense"))
    strategy = SimpleNamespace(broadcast=lambda mine: "runs/of-rank-0")
    stage.trainer = SimpleNamespace(
        strategy=strategy,
        default_root_dir="runs/a-second-later",
        global_rank=0,
        world_size=1,
        accumulate_grad_batches=1,
    )
    stage.setup("fit")
    assert stage.run_folder == Path("runs/of-rank-0")


@pytest.mark.parametrize(
    ("particles", "per_step", "world", "max_steps", "said"),
    [
        (1, 1, 1, 900, None),
        (2, 1, 1, 1800, None),
        (2, 1, 2, 900, None),
        (4, 2, 1, 1800, None),
        (1, 1, 1, -1, None),
        (2, 1, 1, 900, ("450 of the 900 steps", "--trainer.max_steps=1800", "data.milestones times 2")),
        (4, 2, 2, 899, ("899 of the 900 steps", "--trainer.max_steps=900")),
        (1, 1, 1, 300, ("300 of the 900 steps", "--trainer.max_steps=900", "resolution of step 400 is not reached")),
    ],
)
def test_a_schedule_that_is_cut_is_announced_with_what_mends_it(capsys, particles, per_step, world, max_steps, said):
    stage = NerfStage(particles, per_step, FieldSettings(encoding="dense"))
    stage.guidances = [SimpleNamespace(timesteps=Timesteps(steps)) for steps in (300, 900)]
    data = SimpleNamespace(milestones=[SimpleNamespace(step=0), SimpleNamespace(step=400)])
    stage.trainer = SimpleNamespace(max_steps=max_steps, datamodule=data, is_global_zero=True)
    stage.order.set_rank(0, world)
    stage.on_fit_start()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (said is not None)
    assert all(words in line for line in lines for words in said)
    assert ("data.milestones times" in "".join(lines)) == (said is not None and stage.order.steps_per_round > 1)


def test_a_checkpoint_of_another_stage_or_shape_is_refused_without_the_command_too():
    stage = NerfStage(field=FieldSettings(encoding="dense", hidden=8))
    strategy = SimpleNamespace(root_device=torch.device("cpu"), barrier=lambda: None, broadcast=lambda x: x)
    stage.trainer = SimpleNamespace(training=False, is_global_zero=True, strategy=strategy)
    stage.configure_model()
    checkpoint = {"state_dict": stage.state_dict(), "global_step": 0}
    with pytest.raises(InputError, match="no checkpoint of a stage"):
        stage.on_load_checkpoint(checkpoint)
    stage.on_save_checkpoint(checkpoint)
    stage.on_load_checkpoint(checkpoint)
    other = NerfStage(field=FieldSettings(encoding="dense", hidden=16))
    other.trainer = stage.trainer
    other.configure_model()
    with pytest.raises(InputError, match=r"particles.0.field.network.* is of shape \(8,.* and of shape \(16,"):
        other.on_load_checkpoint(checkpoint)
