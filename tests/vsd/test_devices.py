"""The guidance on a device that is not the CPU, and how often the host waits for it in a step: never."""

import copy

import pytest
import torch
from stand_in import StandIn

from vsd import score_trainer as module
from vsd.embeddings import embed
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior, load_pipeline
from vsd.savings import Savings
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps
from vsd.views import View

SETTINGS = {
    "vsd": {},
    "vsd, shared forward": {"score": ScoreSettings(shared_forward=True)},
    "vsd, two updates": {"score": ScoreSettings(updates=2, v_objective=False), "weight": "dmd", "clamp": 0.1},
    "vsd, warm start": {"score": ScoreSettings(warm_start=10)},
    "vsd, checkpointing": {"savings": Savings(checkpointing=True, channels_last=True, slicing=True)},
    "vsd, second model": {"score": ScoreSettings(model="second")},
    "sds, rescale": {"kind": "sds", "rescale": 0.5, "dtype": "bfloat16"},
    "sds, latents": {"kind": "sds", "scale": 1.0},
    "csd, perp-neg": {"kind": "csd", "perp_neg": 1.0},
    "esd": {"kind": "esd", "reduction": "mean"},
    "vsd, perp-neg": {"perp_neg": 1.0, "score": ScoreSettings(phi_mix=0.5)},
    "vsd, scene": {"views": None},
}


@pytest.fixture(scope="module")
def pipelines(tiny_sd):
    """Two pipelines, whose texts are in the cache: the cache is what a run's first embedding leaves."""
    found = [load_pipeline(tiny_sd / name) for name in ("eps", "v")]
    texts = VSDGuidance("a red car", Timesteps(10)).prompts.of_views()
    for pipeline in found:
        embed(DiffusionPrior(pipeline), ["a red car", "", *texts])
    return found


def on_device(pipelines, **settings):
    """A guidance on the stand-in."""
    first, second = (copy.deepcopy(pipeline) for pipeline in pipelines)
    guidance = VSDGuidance("a red car", Timesteps(10), **settings)
    module.load_score_base = lambda model, prior: DiffusionPrior(second, prior.device, prior.dtype)
    guidance.prepare(DiffusionPrior(first, "meta", guidance.dtype, **guidance.savings.of_prior))
    return guidance


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_keeps_to_its_device_and_never_waits(pipelines, monkeypatch, name):
    monkeypatch.setattr(module, "load_score_base", None)  # restored afterwards
    with StandIn() as device:
        guidance = on_device(pipelines, **SETTINGS[name])
        shape = guidance.latent_shape if "latents" in name else (3, 48, 48)
        renders = torch.zeros(2, *shape, device="meta", requires_grad=True)
        view = View(*(torch.zeros(2, *more, device="meta") for more in ((4, 4), (), ())))
        guidance.conditions(view)  # the first time it fills the table of sectors
        with device.watch() as waits:
            guidance.particle_loss(renders, view, torch.tensor([3, 3])).backward()
            guidance.update_score()
    assert waits == []
    assert renders.grad.is_meta and guidance.skipped.is_meta
    assert guidance.trainer is None or guidance.trainer.updates > 0
