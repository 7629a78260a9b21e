"""phi as a small UNet of its own: its shape, that it learns, its files, and its place in a run."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from test_guidance import Stage, guidance, trainer

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from common.errors import InputError
from lightning_modules.cli import run
from vsd.embeddings import encode
from vsd.prior import DiffusionPrior
from vsd.score_distillation import Conditions, ScoreDistillation
from vsd.score_network import ScoreNetwork
from vsd.score_trainer import ScoreSettings, ScoreTrainer
from vsd.small_score_network import WIDTHS, SmallScoreNetwork

CAMERAS = torch.eye(4).repeat(2, 1, 1) + torch.arange(2)[:, None, None]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def prior(request):
    return DiffusionPrior(untrained_stable_diffusion(TINY, "v_prediction"), dtype=request.param)


def batch(prior):
    draws = torch.Generator().manual_seed(0)
    x_0 = torch.randn(2, *prior.latent_shape, generator=draws)
    return x_0, torch.tensor([100, 800]), encode(prior, ["a red car", "a red car"])


def test_it_has_the_published_blocks_and_takes_the_priors_latents_and_text(prior):
    before = prior.predict(*batch(prior))
    network = SmallScoreNetwork(prior)
    config = network.unet.config
    assert config.block_out_channels == WIDTHS and config.layers_per_block == 1
    assert config.down_block_types == ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    assert config.cross_attention_dim == prior.unet.config.cross_attention_dim
    eps = network.predict(*batch(prior))
    assert eps.shape == before.shape and eps.dtype == torch.float32
    assert torch.equal(prior.predict(*batch(prior)), before), "the prior is another network"
    assert prior.unet is not network.base.unet and prior.is_v and not network.base.is_v, "it predicts eps"


def test_all_weights_are_trained_in_float32_and_the_noise_of_known_latents_is_learnt(prior):
    torch.manual_seed(0)
    network = SmallScoreNetwork(prior, camera=True)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert sum(p.numel() for p in network.unet.parameters()) < sum(p.numel() for p in network.parameters())
    x_0, t, text = batch(prior)
    phi = ScoreTrainer(network, ScoreSettings(lr=1e-3, warmup=0, v_objective=False))
    losses = [float(phi.update(x_0, text, CAMERAS)) for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(p.grad is not None for p in network.parameters())


def test_the_camera_is_seen_once_it_has_learnt(prior):
    network = SmallScoreNetwork(prior, camera=True)
    first = network.predict(*batch(prior), CAMERAS)
    assert torch.equal(network.predict(*batch(prior)), first), "at first it adds nothing"
    network.camera[2].weight.data.normal_()
    assert not torch.allclose(network.predict(*batch(prior), CAMERAS), network.predict(*batch(prior)))


def test_checkpointing_changes_no_gradient_beyond_rounding():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        prior = DiffusionPrior(untrained_stable_diffusion(TINY))
        network = SmallScoreNetwork(prior, checkpointing=checkpointing)
        x_0, t, text = batch(prior)
        network.loss(x_0, text, None, t, torch.ones_like(x_0)).backward()
        gradients.append([p.grad for p in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_particles_move_by_the_difference_of_the_two_predictions(prior):
    network = SmallScoreNetwork(prior, camera=True)
    x_0, t, text = batch(prior)
    eps = torch.ones_like(x_0)
    core = ScoreDistillation(prior, network, "vsd", 1.0, weight="none")
    x_t = prior.noise(x_0, t, eps)
    expected = prior.predict(x_t, t, text) - network.predict(x_t, t, text, CAMERAS)
    torch.testing.assert_close(core.gradient(x_0, t, eps, Conditions(text, cameras=CAMERAS)), expected)


def test_what_is_saved_comes_back_and_is_told_from_a_lora(prior, tmp_path):
    network, other = SmallScoreNetwork(prior, camera=True), SmallScoreNetwork(prior, camera=True)
    other.load_state(network.state())
    assert torch.equal(other.predict(*batch(prior), CAMERAS), network.predict(*batch(prior), CAMERAS))
    network.export(tmp_path)
    assert (tmp_path / "SHA256SUMS").is_file()
    read = UNet2DConditionModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in network.unet.state_dict().items())
    other.load_camera(tmp_path / "camera.safetensors")
    lora = ScoreNetwork(prior)
    with pytest.raises(InputError, match="what is saved is no small UNet"):
        network.load_state(lora.state())
    with pytest.raises(InputError, match="the saved LoRA does not fit"):
        lora.load_state(network.state())


def test_a_small_network_with_a_second_model_is_refused():
    with pytest.raises(InputError, match=r"guidance\.score\.model: a small network has no pretrained base"):
        ScoreSettings(network="small", model="toybox")


def test_the_guidance_builds_it_alike_on_every_rank(untrained_prior):
    first, second = (guidance(untrained_prior, score=ScoreSettings(network="small"), seed=3) for _ in range(2))
    for callback in (first, second):
        callback.setup(trainer(), Stage(), "fit")
    networks = [callback.trainer.network for callback in (first, second)]
    assert isinstance(networks[0], SmallScoreNetwork) and networks[0].camera is not None
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))


def test_a_run_with_it_resumes_to_the_same_bits(untrained_prior, tmp_path):
    def fit(name, *options):
        return run(
            [
                *("fit", "--config", "configs/toybox/image.yaml", f"--trainer.default_root_dir={tmp_path / name}"),
                f"--trainer.callbacks.init_args.model={untrained_prior}",
                *("--model.particles=1", "--model.particles_per_step=1"),
                "--model.lr_end=1.0",  # a falling rate depends on the number of steps
                "--trainer.callbacks.init_args.score.network=small",
                "--checkpoint.every=2",
                *("--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0"),
                *("--trainer.log_every_n_steps=1", *options),
            ]
        )

    whole = fit("whole", "--trainer.max_steps=4")
    fit("parts", "--trainer.max_steps=2")
    resumed = fit("parts", "--trainer.max_steps=4", "--ckpt_path=last")
    states = [command.model.guidances[1].trainer.network.state()["unet"] for command in (whole, resumed)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert (tmp_path / "whole" / "phi" / "config.json").is_file()
