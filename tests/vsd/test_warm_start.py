"""VSD's warm start: the particles' first steps are SDS steps, phi learns during them."""

import pytest
import torch

from common.errors import InputError
from tests.vsd.test_score_distillation import VIEW, draw, make
from vsd.score_trainer import ScoreSettings


def particle_gradient(distillation, step):
    latents = draw().requires_grad_()
    distillation.particle_loss(latents, VIEW, torch.tensor([step, step])).backward()
    return latents.grad


def test_steps_before_its_end_are_sds_steps_and_the_others_vsd_steps():
    warm = ScoreSettings(warm_start=3)
    gradients = {
        kind: [particle_gradient(make(kind, score=score), step) for step in (0, 2, 3)]
        for kind, score in {"sds": None, "vsd": None}.items()
    }
    mixed = [particle_gradient(make("vsd", score=warm), step) for step in (0, 2, 3)]
    for i, kind in enumerate(("sds", "sds", "vsd")):
        assert torch.equal(mixed[i], gradients[kind][i])
    assert not torch.equal(gradients["sds"][0], gradients["vsd"][0])


def test_phi_learns_during_it():
    distillation = make("vsd", score=ScoreSettings(warm_start=10, warmup=0, lr=1e-2))
    before = [p.detach().clone() for p in distillation.trainer.network.adapter]
    particle_gradient(distillation, 0)
    assert distillation.update_score() is not None
    assert any(not torch.equal(a, b) for a, b in zip(before, distillation.trainer.network.adapter, strict=True))


def test_a_negative_one_is_refused():
    with pytest.raises(InputError, match=r"guidance\.score\.warm_start: -1"):
        ScoreSettings(warm_start=-1)
