"""A device without memory: one line that names the switches, and the last checkpoint stays."""

import pytest
import torch
from small_runs import NERF, SMALL, UNSEEN, resume

from lightning_modules.cli import main
from lightning_modules.nerf import NerfStage
from lightning_modules.run.folder import LAST

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_step_that_does_not_fit_ends_with_the_switches_and_the_run_resumes(elsewhere, monkeypatch, capsys):
    plain = NerfStage.training_step

    def full(stage, *args):
        if stage.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return plain(stage, *args)

    monkeypatch.setattr(NerfStage, "training_step", full)
    options = [*SMALL, UNSEEN, "--trainer.max_steps=4", "--checkpoint.every=2", "--trainer.limit_val_batches=0"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", NERF, *options, f"--trainer.default_root_dir={elsewhere / 'run'}"])
    assert ended.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "guidance.savings.checkpointing true" in line and "batch_size" in line and "--ckpt_path last" in line
    assert torch.load(elsewhere / "run" / LAST, weights_only=True)["global_step"] == 2
    monkeypatch.setattr(NerfStage, "training_step", plain)
    assert resume(elsewhere / "run").trainer.global_step == 4
