import pytest
import torch
from small_runs import NERF, SMALL, UNSEEN

from common.errors import InputError
from common.finite import first_not_finite
from lightning_modules.broken_gradients import LIMIT, BrokenGradients
from lightning_modules.cli import main
from lightning_modules.nerf import NerfStage
from lightning_modules.regularisers import Regularisers
from lightning_modules.run.folder import LAST


def parameters(*gradients):
    tensors = []
    for gradient in gradients:
        tensors.append(torch.nn.Parameter(torch.zeros(3)))
        tensors[-1].grad = gradient if gradient is None else torch.tensor(gradient)
    return tensors


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_broken_gradient_is_left_out_whole_and_a_sound_one_stays_bit_by_bit(wrong):
    gradients = BrokenGradients(2)
    broken, sound = parameters([1.0, 2.0, 3.0], None, [wrong, wrong, 0.0]), parameters([0.1, 1e-30, 1e10])
    gradients.leave_out(0, broken)
    gradients.leave_out(1, sound)
    assert broken[0].grad.tolist() == broken[2].grad.tolist() == [0.0, 0.0, 0.0] and broken[1].grad is None
    assert torch.equal(sound[0].grad, torch.tensor([0.1, 1e-30, 1e10]))
    assert gradients.counts.tolist() == [[1, 1], [1, 0]]


def test_too_many_broken_gradients_name_the_particle_and_the_cause():
    def check(total, broken, end=False):
        metrics = {"train/penalty": torch.tensor(float("nan")), "train/guidance": torch.tensor(1.0)}
        return BrokenGradients(2).check(torch.tensor([[100, total], [0, broken]]), metrics, end)

    assert check(100, LIMIT) is None and check(2, 2) is None
    assert check(100, 0, end=True) is None
    assert check(100, LIMIT, end=True).endswith(f"left out: {LIMIT} of 100 of particle 1")
    for counts in ((100, LIMIT + 1), (2, 2, True)):
        with pytest.raises(InputError, match=r"^particle 1: \d+ of \d+ .* \(train/penalty is nan\)"):
            check(*counts)


def test_the_first_tensor_that_is_not_finite_is_named():
    tree = {"a": [torch.ones(2), 1, "x"], "b": {"c": (torch.tensor(3), torch.tensor([1.0, float("inf")]))}}
    assert first_not_finite(tree) == "b.c.1"
    assert first_not_finite(tree["a"]) is None


def refused(capsys, folder, *more):
    options = [f"--trainer.default_root_dir={folder}", "--checkpoint.every=2", UNSEEN, *more]
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", NERF, *SMALL, "--trainer.limit_val_batches=0", *options])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    return line, torch.load(folder / LAST, weights_only=True)


def test_a_penalty_of_nan_leaves_the_particles_as_they_were_and_ends_the_run(elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(Regularisers, "penalty", lambda self, out, *_: out.opacity.sum() * float("nan"))
    line, saved = refused(capsys, elsewhere / "run", "--trainer.max_steps=4")
    assert line.startswith("vsd: particle 0: 2 of 2 gradients had nan or infinity (train/penalty is nan)")
    assert saved["global_step"] == 4 and first_not_finite(saved) is None


def test_a_finite_checkpoint_is_not_replaced_by_one_that_is_not(elsewhere, capsys, monkeypatch):
    def poison(stage, *_):
        if stage.global_step == 3:
            stage.particles[1].field.network[0].weight.data[0, 0] = float("inf")

    monkeypatch.setattr(NerfStage, "on_train_batch_end", poison)
    line, saved = refused(capsys, elsewhere / "run", "--trainer.max_steps=6")
    assert line.startswith("vsd: particle 1: state_dict.particles.1.field.network.0.weight has nan or infinity at step")
    assert saved["global_step"] == 2 and first_not_finite(saved) is None
