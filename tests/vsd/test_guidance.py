from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from common.errors import InputError
from vsd.guidance import VSDGuidance
from vsd.score_distillation import ScoreSettings
from vsd.timesteps import Timesteps
from vsd.views import Sector, ViewSectors, eight_sectors


class Stage(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.guidances = []


def trainer(precision="32-true"):
    return SimpleNamespace(
        precision=precision, strategy=SimpleNamespace(root_device=torch.device("cpu")), global_rank=0, world_size=1
    )


def guidance(model, **more):
    return VSDGuidance("a red car", Timesteps(10), model=str(model), **more)


def test_settings_reach_the_distillation(untrained_prior):
    settings = {"scale": 3.0, "rescale": 0.3, "clamp": 0.1, "perp_neg": 0.5, "seed": 4}
    callback, stage = guidance(untrained_prior, score=ScoreSettings(shared_forward=True), **settings), Stage()
    callback.setup(trainer(), stage, "fit")
    assert stage.guidances == [callback]
    assert {name: getattr(callback.core, name) for name in settings} == settings
    assert callback.core.score.shared_forward and callback.core.table.prompts.views == eight_sectors()
    assert callback.core.prior.pipeline.text_encoder is None, "freed"


def test_words_of_views_and_overrides_are_the_users(untrained_prior):
    views = ViewSectors((Sector("front view", -90, 90), Sector("back view", 90, 270)))
    callback = guidance(untrained_prior, views=views, overrides={"back view": "a car, back view"}, kind="sds")
    assert callback.prompts.of_views() == ["a red car, front view", "a car, back view", "a red car, overhead view"]
    callback.setup(trainer(), Stage(), "fit")
    assert len(callback.core.table.views.states) == 3


def test_fp16_is_refused(untrained_prior):
    with pytest.raises(InputError, match="trainer.precision: fp16 underflows"):
        guidance(untrained_prior).setup(trainer("16-mixed"), Stage(), "fit")


def test_a_module_that_is_no_stage_is_named(untrained_prior):
    with pytest.raises(InputError, match="LightningModule is no stage"):
        guidance(untrained_prior).setup(trainer(), pl.LightningModule(), "fit")


def test_nothing_is_loaded_where_nothing_is_trained():
    stage = Stage()
    guidance("no/such/model").setup(trainer(), stage, "test")
    assert not stage.guidances


def test_two_guidances_of_a_run_keep_their_own_state(untrained_prior):
    first, second = guidance(untrained_prior), guidance(untrained_prior, kind="sds")
    assert first.state_key != second.state_key
    first.setup(trainer(), Stage(), "fit")
    images = torch.zeros(1, 8, 16, 16, requires_grad=True)
    view = SimpleNamespace(cameras=torch.eye(4)[None], azimuth=torch.zeros(1), elevation=torch.zeros(1))
    first.particle_loss(images, view, torch.tensor([0])).backward()
    first.core.update_score()
    restored = guidance(untrained_prior)
    restored.load_state_dict(first.state_dict())  # before setup, as Lightning does
    restored.setup(trainer(), Stage(), "fit")
    assert restored.core.calls == restored.core.updates == 1
    for a, b in zip(first.core.network.parameters(), restored.core.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_phi_of_a_run_is_exported(untrained_prior, tmp_path):
    stage, run = Stage(), trainer()
    stage.run_folder, run.is_global_zero = tmp_path, True
    callbacks = [guidance(untrained_prior, kind=kind) for kind in ("vsd", "sds", "esd")]
    for callback in callbacks:
        callback.setup(run, stage, "fit")
    for callback in callbacks:
        callback.on_fit_end(run, stage)
    names = {"pytorch_lora_weights.safetensors", "camera.safetensors"}
    assert {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*.safetensors")} == {
        f"phi-{k}/{name}" for k in range(2) for name in names
    }
