"""What each switch of a step's cost changes: nothing, or what it says."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderTiny

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from common.errors import InputError
from vsd import guidance as module
from vsd.embeddings import encode
from vsd.encoding import encode as encode_latents
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior
from vsd.savings import Savings, correlation, load_encoder, smooth_image
from vsd.score_distillation import Conditions, ScoreDistillation
from vsd.score_network import ScoreNetwork
from vsd.score_trainer import ScoreSettings, ScoreTrainer
from vsd.timesteps import Timesteps
from vsd.views import View

VIEW = View(torch.eye(4).repeat(2, 1, 1), torch.tensor([0.0, 90.0]), torch.tensor([10.0, 10.0]))


def tiny_autoencoder(channels=4):
    widths = dict(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8))
    blocks = dict(num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))
    torch.manual_seed(3)
    return AutoencoderTiny(**widths, **blocks, latent_channels=channels)


def gradients(prior, checkpointing=False, shared=False):
    """Of the images and of all that phi trains, in a step in which the adapter and the camera have an effect."""
    torch.manual_seed(0)
    network = ScoreNetwork(prior, 2, camera=True, checkpointing=checkpointing)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn_like(parameter)
    distillation = ScoreDistillation(prior, network, shared_forward=shared)
    trainer = ScoreTrainer(network, ScoreSettings(camera_dropout=0.0))
    text = encode(prior, ["a red car", "a blue duck"])
    side = prior.image_size
    images = torch.rand(2, 3, side, side).requires_grad_(True)
    conditions = Conditions(text, encode(prior, ["", ""]), cameras=torch.rand(2, 4, 4))
    distillation.loss(images, conditions, torch.tensor([300, 700])).backward()
    trainer.update(distillation.latents, text, conditions.cameras, distillation.take_forward())
    return [images.grad, *(p.grad for p in network.parameters())]


def plain(**more):
    return DiffusionPrior(untrained_stable_diffusion(TINY), **more)


@pytest.mark.parametrize("shared", [False, True])
def test_checkpointing_changes_no_bit_of_any_gradient(shared):
    ours = gradients(plain(checkpointing=True), checkpointing=True, shared=shared)
    for a, b in zip(ours, gradients(plain(), shared=shared), strict=True):
        assert torch.equal(a, b)


def test_a_shared_forward_changes_no_bit_of_the_particles_gradient():
    assert torch.equal(gradients(plain(), shared=True)[0], gradients(plain())[0])


def test_what_is_computed_anew_sees_the_adapter_as_the_forward_did():
    """A backward of the prior's own pass while phi is switched on, and of phi's while it is off."""
    prior = plain()
    network = ScoreNetwork(prior, 2, checkpointing=True)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn_like(parameter)
    text, t = encode(prior, ["a red car"]), torch.tensor([300])
    x_t = torch.randn(1, *prior.latent_shape, requires_grad=True)
    found = {}
    for checkpointed in (True, False):
        if not checkpointed:
            prior.unet.disable_gradient_checkpointing()
        of_prior, of_phi = prior.predict(x_t, t, text), network.predict(x_t, t, text)
        with network._switched(True):
            found[checkpointed] = torch.autograd.grad(of_prior.sum(), x_t)
        found[checkpointed] += torch.autograd.grad(of_phi.sum(), x_t)
    assert all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))
    assert not torch.equal(*found[True]) and torch.equal(prior.predict(x_t, t, text), of_prior), "off again"


def kept(prior, checkpointing):
    """Elements that the graphs of an encoding and of phi's pass keep."""
    network = ScoreNetwork(prior, 2, checkpointing=checkpointing)
    sizes, x_t = [], torch.randn(1, *prior.latent_shape)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        prior.encode(torch.rand(1, 3, prior.image_size, prior.image_size, requires_grad=True))
        network.raw(x_t, torch.tensor([300]), encode(prior, ["a red car"]))
    return sum(sizes)


def test_checkpointing_keeps_less():
    assert kept(plain(checkpointing=True), True) < 0.5 * kept(plain(), False)


@pytest.mark.parametrize("more", [{}, {"encoder": None}, {"checkpointing": True}])
def test_slicing_has_the_gradients_of_all_views_at_once(more):
    """In float64, where what is left is the order of sums."""
    if "encoder" in more:
        more = {"encoder": tiny_autoencoder()}
    found = []
    for slicing in (True, False):
        prior = plain(slicing=slicing, **more)
        images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double().requires_grad_(True)
        latents = encode_latents(prior.encoder.double(), images, torch.Generator().manual_seed(2), slicing)
        weights = torch.linspace(-1, 1, latents.numel(), dtype=torch.double).view_as(latents)
        (latents * weights).sum().backward()
        found.append((latents.detach(), images.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert theirs.abs().min(0).values.max() > 0


def test_slicing_keeps_nothing_of_a_view():
    sizes = []
    for slicing in (True, False):
        prior, kept = plain(slicing=slicing), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            prior.encode(torch.rand(2, 3, 32, 32, requires_grad=True))
        sizes.append(sum(kept))
    assert sizes[0] < 0.1 * sizes[1]


def test_slicing_of_one_view_computes_nothing_anew():
    one, images = plain(slicing=True), torch.rand(1, 3, 32, 32, requires_grad=True)
    passes = []
    one.encoder.encoder.register_forward_hook(lambda *_: passes.append(0))
    one.encode(images).sum().backward()
    assert len(passes) == 1
    one.encode(images.repeat(2, 1, 1, 1)).sum().backward()
    assert len(passes) == 1 + 2 * 2


def test_channels_last_is_the_same_up_to_rounding():
    prior = plain(channels_last=True)
    assert prior.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert prior.vae.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    expected = gradients(plain())
    floor = 1e-3 * max(b.abs().max().item() for b in expected)  # far below it a gradient is rounding alone
    for a, b in zip(gradients(prior), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(b.abs().max().item(), floor))


def guidance(folder, **savings):
    return VSDGuidance("a red car", Timesteps(10), model=str(folder), kind="sds", savings=Savings(**savings))


def test_a_tiny_encoder_serves_the_early_steps_and_the_full_one_the_late(tiny_sd):
    guided = guidance(tiny_sd / "eps", encoder="x", encoder_until=5)
    guided.prepare(DiffusionPrior.load(guided.model))
    prior, images = guided.core.prior, torch.rand(2, 3, 32, 32)
    full = prior.encode(images)
    prior.encoder = tiny_autoencoder()
    prior.freeze(prior.encoder)
    for steps, expected in (((0, 4), prior.encode(images)), ((4, 5), full), ((9, 9), full)):
        guided.particle_loss(images, VIEW, torch.tensor(steps))
        assert torch.equal(guided.core.latents, expected)
    assert not torch.equal(full, prior.encode(images)) and torch.equal(prior.encode(images, full=True), full)
    assert not Savings(encoder="x").full_encoder(torch.tensor([10**6])), "for all steps"


def test_the_switches_reach_the_prior_and_phi(tiny_sd, monkeypatch):
    encoder = tiny_autoencoder()
    monkeypatch.setattr(module, "load_encoder", lambda name, prior: prior.freeze(encoder) or {"x": encoder}[name])
    savings = Savings("x", 5, checkpointing=True, channels_last=True, slicing=True)
    guided = VSDGuidance("a red car", Timesteps(10), str(tiny_sd / "eps"), savings=savings)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    guided.setup(
        SimpleNamespace(precision="32-true", strategy=strategy, global_rank=0, world_size=1),
        SimpleNamespace(guidances=[]),
        "fit",
    )
    prior = guided.core.prior
    assert (
        prior.encoder is encoder and prior.channels_last and prior.slicing and prior.vae.encoder.gradient_checkpointing
    )
    assert encoder.encoder.gradient_checkpointing and prior.unet.is_gradient_checkpointing
    assert prior.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_an_encoder_of_the_priors_latents_is_taken(tiny_sd, tmp_path, monkeypatch):
    """Latents that are nearly the prior's; the gradient of a step then nearly is too."""
    tiny_autoencoder().save_pretrained(tmp_path / "tiny")
    prior = DiffusionPrior.load(str(tiny_sd / "eps"))
    own, encoder_forward = prior.encode, AutoencoderTiny.encode

    def nearly(self, images):
        out = encoder_forward(self, images)
        out.latents = 0.3 * out.latents / out.latents.std() * own(images).std() + own(images, full=True)
        return out

    monkeypatch.setattr(AutoencoderTiny, "encode", nearly)
    encoder = load_encoder(str(tmp_path / "tiny"), prior)
    assert not any(p.requires_grad for p in encoder.parameters())
    before = gradients(prior)[0]
    prior = plain(encoder=encoder)
    assert torch.cosine_similarity(gradients(prior)[0].flatten(), before.flatten(), 0) > 0.8


@pytest.mark.parametrize(
    ("channels", "named"), [(4, "correlate by -?0.[0-7]"), (8, r"\(8, 16, 16\), the prior's \(4, ")]
)
def test_an_encoder_of_other_latents_is_refused(tiny_sd, tmp_path, channels, named):
    tiny_autoencoder(channels).save_pretrained(tmp_path / "tiny")
    with pytest.raises(InputError, match=f"guidance.savings.encoder: the latents .*{named}"):
        load_encoder(str(tmp_path / "tiny"), DiffusionPrior.load(str(tiny_sd / "eps")))


def test_what_is_no_encoder_is_refused(tiny_sd, tmp_path):
    prior = DiffusionPrior.load(str(tiny_sd / "eps"))
    for model in (str(tmp_path), str(tiny_sd / "eps" / "vae")):
        with pytest.raises(InputError, match="guidance.savings.encoder: .* does not load as an AutoencoderTiny"):
            load_encoder(model, prior)


@pytest.mark.parametrize(
    ("savings", "named"),
    [
        ({"encoder_until": 5}, "encoder_until: there is no guidance.savings.encoder"),
        ({"compile": True, "checkpointing": True}, "savings.compile: not with guidance.savings.checkpointing"),
        ({"encoder": "x", "encoder_until": 0}, "encoder_until: 0; it counts particle steps"),
    ],
)
def test_wrong_savings_are_named(savings, named):
    with pytest.raises(InputError, match=named):
        Savings(**savings)


def test_latents_are_compared_without_their_means():
    x = torch.randn(1, 4, 8, 8)
    assert correlation(x, 3 * x + 5) == pytest.approx(1, abs=1e-5) and abs(correlation(x, torch.randn_like(x))) < 0.3
    image = smooth_image("cpu")
    assert image.abs().max() <= 1 and image.std((2, 3)).min() > 0.2 and torch.equal(image, smooth_image("cpu"))


def exhausted(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


@pytest.mark.parametrize("when", ["particle step", "update", "backward"])
def test_a_step_that_does_not_fit_says_what_takes_less(tiny_sd, monkeypatch, when):
    guided = VSDGuidance("a red car", Timesteps(10), str(tiny_sd / "eps"), score=ScoreSettings(shared_forward=True))
    guided.prepare(DiffusionPrior.load(guided.model))
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    named = "^guidance: a step does not fit into the memory of cpu; what takes less: guidance.dtype bfloat16, "
    with pytest.raises(InputError, match=named) as caught:
        if when == "particle step":
            monkeypatch.setattr(guided.core.prior.unet, "forward", exhausted)
        guided.particle_loss(images, VIEW, torch.tensor([0, 0])).backward()
        if when == "backward":
            guided.on_exception(None, None, torch.OutOfMemoryError())
        monkeypatch.setattr(guided.trainer.network, "error", exhausted)
        guided.update_score()
    rest = str(caught.value).removeprefix(named)
    assert "guidance.score.shared_forward false" in rest and "guidance.savings.checkpointing true" in rest
    assert "guidance.savings.slicing true" in rest and "model.field.chunk" in rest
    assert "guidance.score.model" not in rest and "batch_size" in rest and "\n" not in rest


def test_other_errors_stay_what_they_are(tiny_sd):
    guided = guidance(tiny_sd / "eps")
    guided.on_exception(None, None, torch.OutOfMemoryError())  # not ours: nothing is loaded
    guided.prepare(DiffusionPrior.load(guided.model))
    guided.on_exception(None, None, RuntimeError("another"))
