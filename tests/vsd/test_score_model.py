import pytest
import torch

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from common.errors import InputError
from tests.vsd.test_score_distillation import gradient
from vsd.embeddings import encode
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior
from vsd.schedule import eps_of_v, matching_times
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps
from vsd.views import View

VIEW = View(torch.eye(4).repeat(2, 1, 1), torch.tensor([0.0, 90.0]), torch.tensor([10.0, 10.0]))
STEPS, T = torch.tensor([0, 0]), torch.tensor([100, 700])


def make(prior, score_model=None, **more):
    score = ScoreSettings(lr=1e-2, warmup=1, model=score_model and str(score_model), **more)
    guidance = VSDGuidance("a pineapple", Timesteps(100), score=score)
    guidance.prepare(DiffusionPrior.load(str(prior)))
    return guidance


@pytest.fixture(scope="module")
def plain(tiny_sd):
    """phi's pipeline as it was, and the prompt in its own embedding."""
    prior = DiffusionPrior.load(str(tiny_sd / "v"))
    return prior, encode(prior, ["a pineapple", "a pineapple"])


def draw():
    return torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_phi_is_the_other_network_on_its_own_text(tiny_sd, plain):
    """As in the paper: the prior predicts eps, phi v. Until it is trained, phi is its pipeline's own prediction."""
    distillation = make(tiny_sd / "eps", tiny_sd / "v")
    other, text = plain
    x_0, eps = draw()
    x_t = distillation.core.prior.noise(x_0, T, eps)
    with torch.no_grad():
        eps_phi = eps_of_v(other.unet(x_t, T, text.states).sample, x_t, other.alphabar[T])
    eps_pretrain = gradient(distillation, x_0, T, eps, VIEW) / (1 - other.alphabar[T])[:, None, None, None] + eps_phi
    distillation.core.kind = "sds"
    alone = gradient(distillation, x_0, T, eps, VIEW) / (1 - other.alphabar[T])[:, None, None, None] + eps
    torch.testing.assert_close(eps_pretrain, alone, atol=1e-4, rtol=1e-4)
    ours = distillation.table.plain.repeat(2)
    assert not torch.allclose(ours.states, text.states), "the prior's text encoder is another one"
    assert not torch.allclose(distillation.core.prior.predict(x_t, T, ours), eps_phi, atol=1e-2)


def test_phi_learns_by_its_own_objective_and_the_prior_stays(tiny_sd, plain):
    distillation = make(tiny_sd / "eps", tiny_sd / "v", updates=3)
    network, prior = distillation.trainer.network, distillation.core.prior
    x_0, eps = draw()
    _, text = plain
    loss = network.loss(x_0, text, VIEW.cameras, T, eps)
    alphabar = network.base.alphabar[T][:, None, None, None]
    x_t, v = prior.noise(x_0, T, eps), alphabar.sqrt() * eps - (1 - alphabar).sqrt() * x_0
    expected = (network.base.unet(x_t, T, text.states).sample - v).square().mean()
    torch.testing.assert_close(loss, expected)
    before = {name: p.clone() for name, p in prior.unet.named_parameters()}
    distillation.particle_loss(x_0, VIEW, STEPS)
    assert distillation.update_score() > 0
    assert not any("lora" in name for name in before), "the prior carries no adapter"
    assert all(torch.equal(p, before[name]) for name, p in prior.unet.named_parameters())


def test_the_second_pipeline_keeps_its_unet_alone(tiny_sd):
    base = make(tiny_sd / "eps", tiny_sd / "v").trainer.network.base
    assert base.vae is None and base.pipeline.vae is None and base.pipeline.text_encoder is None
    assert base.is_v and base.unet.device == torch.device("cpu")


def test_phi_loads_into_a_plain_copy_of_its_own_pipeline(tiny_sd, plain, tmp_path):
    distillation = make(tiny_sd / "eps", tiny_sd / "v", updates=3)
    distillation.particle_loss(draw()[0], VIEW, STEPS)
    distillation.update_score()
    distillation.trainer.network.export(tmp_path)
    for layer in distillation.trainer.network.camera[2].parameters():
        layer.data.zero_()  # the plain pipeline knows no camera
    copy = untrained_stable_diffusion(TINY, "v_prediction", seed=1)
    copy.load_lora_weights(tmp_path)
    x_t, (_, text) = draw()[1], plain
    with torch.no_grad():
        raw = distillation.trainer.network.raw(x_t, T, text, VIEW.cameras)
        torch.testing.assert_close(copy.unet(x_t, T, text.states).sample, raw, atol=1e-5, rtol=1e-4)


def test_a_phi_of_another_schedule_is_asked_at_the_same_noise(tiny_sd):
    distillation = make(tiny_sd / "eps", tiny_sd / "v")
    assert torch.equal(distillation.trainer.network._times, torch.arange(1000)), "equal schedules, equal t"
    alphabar = torch.linspace(0.999, 0.0, 400)
    times = matching_times(distillation.core.prior.alphabar, alphabar)
    assert (alphabar[times] - distillation.core.prior.alphabar).abs().max() <= 0.999 / 399 / 2 + 1e-6
    base = distillation.trainer.network.base
    base.alphabar, distillation.trainer.network._times = alphabar, times
    asked = []
    raw = base.raw
    base.raw = lambda x_t, t, text: asked.append((x_t, t)) or raw(x_t, t, text)
    x_0, eps = draw()
    gradient(distillation, x_0, T, eps, VIEW)
    ((x_t, t),) = asked
    assert torch.equal(t, times[T])
    torch.testing.assert_close(x_t, distillation.core.prior.noise(x_0, T, eps), atol=0.01, rtol=0.01)


def test_it_resumes_with_the_same_model_alone(tiny_sd):
    distillation = make(tiny_sd / "eps", tiny_sd / "v")
    distillation.particle_loss(draw()[0], VIEW, STEPS)
    distillation.update_score()
    other = make(tiny_sd / "eps", tiny_sd / "v")
    other.load_state_dict(distillation.state_dict())
    x_0, eps = draw()
    assert torch.equal(gradient(other, x_0, T, eps, VIEW), gradient(distillation, x_0, T, eps, VIEW))


def test_other_latents_and_unknown_models_are_named(tiny_sd, untrained_prior, tmp_path):
    with pytest.raises(InputError, match=r"guidance.score.model: the latents of .*untrained \(8 channels\).* \(4\)"):
        make(tiny_sd / "eps", untrained_prior)
    pipeline = untrained_stable_diffusion(TINY, seed=1)
    for parameter in pipeline.vae.parameters():
        parameter.data.normal_(std=0.1)
    pipeline.save_pretrained(tmp_path / "retrained")
    with pytest.raises(InputError, match="guidance.score.model: the latents of"):
        make(tiny_sd / "eps", tmp_path / "retrained")
    with pytest.raises(InputError, match="guidance.score.model: nobody/none is no folder"):
        make(tiny_sd / "eps", "nobody/none")
    pipeline = untrained_stable_diffusion(TINY)
    pipeline.scheduler.register_to_config(prediction_type="sample")
    pipeline.save_pretrained(tmp_path / "sample")
    with pytest.raises(InputError, match="guidance.score.model: its scheduler predicts 'sample'"):
        make(tiny_sd / "eps", tmp_path / "sample")
