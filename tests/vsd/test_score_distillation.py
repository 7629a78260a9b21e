import pytest
import torch

from common.errors import InputError
from toybox.prior.architecture import untrained_pipeline
from toybox.world.captions import VOCABULARY
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps
from vsd.views import View

VIEW = View(torch.eye(4).repeat(2, 1, 1), torch.tensor([0.0, 90.0]), torch.tensor([10.0, 10.0]))
STEPS = torch.tensor([0, 0])


def make(kind="vsd", scale=7.5, prior=None, rank=0, prompt="a red car", **more):
    """A guidance with its core, without Lightning."""
    guidance = VSDGuidance(prompt, Timesteps(100), kind=kind, scale=scale, **more)
    guidance.prepare(prior or DiffusionPrior(untrained_pipeline(VOCABULARY)), rank)
    return guidance


def gradient(guidance, x_0, t, eps, view, kind=None):
    return guidance.core.gradient(x_0, t, eps, guidance.conditions(view), kind)


def draw():
    return torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))


def test_sds_is_exactly_vsd_whose_score_network_returns_the_noise(monkeypatch):
    x_0, t, eps = draw(), torch.tensor([100, 700]), torch.randn(2, 8, 16, 16)
    sds = gradient(make("sds"), x_0, t, eps, VIEW)
    vsd = make("vsd")
    assert not torch.equal(gradient(vsd, x_0, t, eps, VIEW), sds)
    monkeypatch.setattr(vsd.trainer.network, "predict", lambda *_: eps)
    assert torch.equal(gradient(vsd, x_0, t, eps, VIEW), sds)


def test_vsd_at_scale_one_is_zero_while_phi_is_the_prior_on_the_plain_prompt():
    """eps_phi starts as the prior: without view words and guidance nothing is left of the gradient."""
    prior = DiffusionPrior(untrained_pipeline(VOCABULARY))
    plain = make(scale=1.0, prior=prior, views=None)
    rest = gradient(plain, draw(), torch.tensor([100, 700]), torch.randn(2, 8, 16, 16), VIEW)
    assert rest.abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["vsd", "esd"])
def test_the_share_of_eps_phi_goes_from_sds_to_the_published_gradient(kind):
    x_0, t, eps = draw(), torch.tensor([100, 700]), torch.randn(2, 8, 16, 16)
    sds = gradient(make("sds"), x_0, t, eps, VIEW)
    whole, none, most = (make(kind, score=ScoreSettings(phi_mix=share)) for share in (1.0, 0.0, 0.75))
    assert torch.equal(gradient(none, x_0, t, eps, VIEW), sds)
    published = gradient(whole, x_0, t, eps, VIEW)
    assert not torch.allclose(published, sds)
    torch.testing.assert_close(gradient(most, x_0, t, eps, VIEW), 0.25 * sds + 0.75 * published)


def test_esd_at_scale_one_is_vsd():
    x_0, t, eps = draw(), torch.tensor([100, 700]), torch.randn(2, 8, 16, 16)
    esd = make("esd", esd_scale=1.0)
    esd.trainer.network.camera[2].weight.data.fill_(0.01)
    same = gradient(esd, x_0, t, eps, VIEW)
    esd.core.esd_scale = 0.0
    other = gradient(esd, x_0, t, eps, VIEW)
    esd.core.kind = "vsd"
    assert torch.equal(gradient(esd, x_0, t, eps, VIEW), same) and not torch.allclose(same, other)


def test_the_view_words_follow_the_camera():
    distillation = make("sds")
    x_0, t, eps = draw(), torch.tensor([100, 700]), torch.randn(2, 8, 16, 16)
    turned = View(VIEW.cameras, torch.tensor([0.0, 270.0]), VIEW.elevation)
    here, there = gradient(distillation, x_0, t, eps, VIEW), gradient(distillation, x_0, t, eps, turned)
    torch.testing.assert_close(here[0], there[0])
    assert not torch.allclose(here[1], there[1])


def test_images_get_a_gradient_and_the_prior_none():
    distillation = make()
    images = torch.zeros(2, 3, 64, 64, requires_grad=True)
    distillation.particle_loss(images, VIEW, STEPS).backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in distillation.core.prior.unet.parameters())
    assert all(p.grad is None for p in distillation.trainer.network.parameters()), (
        "particles move, phi waits for its update"
    )


def test_the_score_network_learns_from_the_last_renders():
    distillation = make(score=ScoreSettings(updates=3, lr=1e-2, warmup=1))
    assert distillation.update_score() is None, "nothing was rendered yet"
    distillation.particle_loss(draw(), VIEW, STEPS)
    before = [p.detach().clone() for p in distillation.trainer.network.parameters()]
    assert distillation.update_score() > 0 and distillation.trainer.updates == 3
    assert any(not torch.equal(a, b) for a, b in zip(before, distillation.trainer.network.parameters(), strict=True))
    assert make("sds").update_score() is None


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(monkeypatch):
    distillation = make("sds")
    latents = draw().requires_grad_(True)
    monkeypatch.setattr(distillation.core, "gradient", lambda x, *_: torch.full_like(x, float("nan")))
    loss = distillation.particle_loss(latents, VIEW, STEPS)
    loss.backward()
    assert distillation.skipped == 1 and loss == 0 and latents.grad.abs().max() == 0


def test_broken_renders_move_neither_particles_nor_phi():
    distillation = make(score=ScoreSettings(lr=1e-2, warmup=1))
    distillation.particle_loss(draw(), VIEW, STEPS)
    distillation.update_score()
    before = [p.detach().clone() for p in distillation.trainer.network.parameters()]
    moments = [s["exp_avg"].clone() for s in distillation.trainer.optimizer.state.values()]
    images = torch.zeros(2, 3, 64, 64)
    images[0, 1, 5, 5] = float("nan")
    images.requires_grad_(True)
    distillation.particle_loss(images, VIEW, STEPS).backward()
    assert not distillation.update_score().isfinite()
    assert images.grad.abs().max() == 0 and distillation.skipped >= 2
    assert all(torch.equal(a, b) for a, b in zip(before, distillation.trainer.network.parameters(), strict=True))
    after = (s["exp_avg"] for s in distillation.trainer.optimizer.state.values())
    assert all(torch.equal(a, b) for a, b in zip(moments, after, strict=True))
    distillation.particle_loss(draw(), VIEW, STEPS)
    assert distillation.update_score().isfinite(), "and goes on"
    assert any(not torch.equal(a, b) for a, b in zip(before, distillation.trainer.network.parameters(), strict=True))


def test_an_autoencoder_whose_backward_overflows_is_skipped():
    distillation = make("sds")
    images = torch.zeros(2, 3, 64, 64, requires_grad=True)
    encode = distillation.core.prior.encode

    def overflowing(x, *_):
        latents = encode(x)
        latents.register_hook(lambda gradient: gradient * float("inf"))
        return latents

    distillation.core.prior.encode = overflowing
    distillation.particle_loss(images, VIEW, STEPS).backward()
    assert distillation.skipped == 1 and images.grad.abs().max() == 0


def test_phi_is_asked_and_trained_on_the_plain_prompt(monkeypatch):
    distillation = make(score=ScoreSettings(warmup=1))
    seen, raw = [], distillation.core.prior.raw
    monkeypatch.setattr(distillation.core.prior, "raw", lambda x, t, text: seen.append(text.states) or raw(x, t, text))
    distillation.particle_loss(draw(), VIEW, STEPS)
    distillation.update_score()
    prior, score, update = seen
    plain = distillation.table.plain.states.expand(2, -1, -1)
    assert torch.equal(score, plain) and torch.equal(update, plain)
    assert torch.equal(prior[:2], distillation.table.views.states[[0, 2]]), "the prior gets the view's words"


def test_a_tenth_of_the_cameras_is_hidden_from_phi(monkeypatch):
    distillation = make()
    hidden = []

    def loss(x_0, text, cameras, *_):
        hidden.append(cameras.flatten(1).abs().sum(1) == 0)
        return sum(p.sum() for p in distillation.trainer.network.parameters()) * 0

    monkeypatch.setattr(distillation.trainer.network, "loss", loss)
    views = View(torch.eye(4).repeat(50, 1, 1), torch.zeros(50), torch.zeros(50))
    distillation.core.latents, distillation._cameras = torch.zeros(50, 8, 16, 16), views.cameras
    for _ in range(40):
        distillation.update_score()
    fraction = torch.stack(hidden).double().mean().item()
    assert fraction == pytest.approx(0.1, abs=0.03), "2000 draws, a deviation of 0.007"


def test_phi_sees_every_timestep(monkeypatch):
    distillation, seen = make(), []
    loss = distillation.trainer.network.loss
    monkeypatch.setattr(distillation.trainer.network, "loss", lambda *given: seen.append(given[3]) or loss(*given))
    distillation.particle_loss(draw(), VIEW, torch.tensor([99, 99]))
    for _ in range(12):
        distillation.update_score()
    drawn = torch.cat(seen)
    assert drawn.min() < 150 and drawn.max() > 850, "not the particle's annealed range"


def test_a_shared_forward_gives_the_same_gradient_and_the_loss_at_its_noise():
    shared, apart = (make(score=ScoreSettings(warmup=1, shared_forward=s)) for s in (True, False))
    for distillation in (shared, apart):
        distillation.trainer.network.camera[2].weight.data.fill_(0.01)
    x_0, t, eps = draw(), torch.tensor([100, 700]), torch.randn(2, 8, 16, 16)
    torch.testing.assert_close(
        gradient(shared, x_0, t, eps, VIEW), gradient(apart, x_0, t, eps, VIEW), atol=1e-6, rtol=1e-6
    )
    text = apart.table.plain.repeat(2)
    expected = apart.trainer.network.loss(x_0, text, VIEW.cameras, t, eps)
    expected.backward()
    loss = shared.trainer._shared_loss(shared.core.take_forward())
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for a, b in zip(shared.trainer.network.parameters(), apart.trainer.network.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
    assert any(p.grad.abs().max() > 1e-4 for p in shared.trainer.network.parameters())


def test_a_shared_forward_saves_a_pass_and_only_the_first_update_shares(monkeypatch):
    def passes(updates, share):
        distillation = make(score=ScoreSettings(warmup=1, updates=updates, shared_forward=share))
        raw, count = distillation.core.prior.raw, []
        monkeypatch.setattr(distillation.core.prior, "raw", lambda *given: count.append(1) or raw(*given))
        images = draw().requires_grad_(True)
        distillation.particle_loss(images, VIEW, STEPS).backward()
        distillation.update_score()
        assert distillation.trainer.updates == updates and images.grad.abs().max() > 0
        assert distillation.core._forward is None, "nothing is held"
        return len(count)

    assert passes(1, False) == 3 and passes(1, True) == 2
    assert passes(3, False) == 5 and passes(3, True) == 4


def test_the_clamp_limits_every_element():
    loud, clamped = make("sds", 100.0), make("sds", 100.0, clamp=0.01)
    for distillation, quiet in ((loud, False), (clamped, True)):
        latents = draw().requires_grad_(True)
        distillation.particle_loss(latents, VIEW, STEPS).backward()
        assert (latents.grad.abs().max() <= 0.01 / 2 + 1e-6) == quiet


def test_a_run_that_stops_and_resumes_continues_to_the_bit(tmp_path):
    def run(distillation, steps, latents):
        losses = []
        for _ in range(steps):
            latents = latents.detach().requires_grad_(True)
            loss = distillation.particle_loss(latents, VIEW, STEPS)
            loss.backward()
            losses += [loss.item(), distillation.update_score().item()]
            latents = latents - 0.1 * latents.grad
        return losses, latents

    settings = ScoreSettings(lr=1e-2, warmup=2)
    whole, _ = run(make(score=settings), 4, draw())
    first = make(score=settings)
    start, latents = run(first, 2, draw())
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(score=settings)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rest, _ = run(second, 2, latents)
    assert start + rest == whole
    other, _ = run(make(score=settings, seed=1), 1, draw())
    ranked, _ = run(make(score=settings, rank=1), 1, draw())
    assert other != whole[:2] and ranked != whole[:2] and other != ranked


@pytest.mark.parametrize(
    ("make_it", "named"),
    [
        (lambda: make("dreams"), "guidance.kind: 'dreams'"),
        (lambda: ScoreSettings(updates=0), "guidance.score.updates: 0"),
        (lambda: ScoreSettings(camera_dropout=1.5), "guidance.score.camera_dropout: 1.5"),
        (lambda: ScoreSettings(phi_mix=-0.1), "guidance.score.phi_mix: -0.1"),
        (lambda: make("vsd").load_state_dict(make("sds").state_dict()), "no score network"),
        (lambda: make("esd", score=ScoreSettings(shared_forward=True)), "guidance.score.shared_forward: esd"),
    ],
)
def test_wrong_settings_are_named(make_it, named):
    with pytest.raises(InputError, match=named):
        make_it()


def similarity(ours, theirs):
    ours, theirs = ours.detach().float().cpu().flatten(), theirs.detach().float().cpu().flatten()
    return torch.cosine_similarity(ours, theirs, 0).item(), (ours.norm() / theirs.norm()).item()


ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [
        ("cpu", torch.bfloat16, 0.02),
        pytest.param("cuda", torch.bfloat16, 0.02, marks=ON_CUDA),
        pytest.param("cuda", torch.float32, 0.002, marks=ON_CUDA),
    ],
)
def test_guidance_agrees_with_fp32_on_the_cpu(device, dtype, tolerance):
    """The gradient, the score network's prediction, its loss and the gradients of everything that it trains."""
    found = []
    x_0, t, eps = draw(), torch.tensor([100, 700]), torch.randn(2, 8, 16, 16)
    for where, kind in (("cpu", torch.float32), (device, dtype)):
        prior = DiffusionPrior(untrained_pipeline(VOCABULARY), where, kind)
        distillation = make("sds", prior=prior)
        given = [x.to(where) for x in (x_0, t, eps)]
        view = View(VIEW.cameras.to(where), VIEW.azimuth.to(where), VIEW.elevation.to(where))
        results = [gradient(distillation, *given, view)]
        images = torch.linspace(-1, 1, 2 * 3 * 64 * 64, device=where).view(2, 3, 64, 64).requires_grad_(True)
        latents = prior.encode(images)
        results += [latents, *torch.autograd.grad(latents.square().mean(), images)]
        distillation = make("vsd", prior=prior)
        network, plain = distillation.trainer.network, distillation.table.plain.repeat(2)
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():  # LoRA's up half starts at zero, which hides the down half
            parameter.data += (0.02 * torch.randn(parameter.shape, generator=generator)).to(where)
        results.append(network.predict(prior.noise(*given), given[1], plain, view.cameras))
        hidden = torch.tensor([1.0, 0.0], device=where)[:, None, None]
        loss = network.loss(given[0], plain, hidden * view.cameras, *given[1:])
        loss.backward()
        assert all(p.dtype == torch.float32 for p in network.parameters())
        results.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        found.append([*results, loss[None]])
    for ours, theirs in zip(*found, strict=True):
        alike, size = similarity(theirs, ours)
        assert alike > 1 - tolerance and size == pytest.approx(1, abs=2 * tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_cuda_never_waits_for_the_device():
    prior = DiffusionPrior(untrained_pipeline(VOCABULARY), "cuda", torch.bfloat16)
    distillation = make("esd", prior=prior, perp_neg=1.0, rescale=0.3, clamp=1.0)
    view = View(VIEW.cameras.cuda(), VIEW.azimuth.cuda(), VIEW.elevation.cuda())
    images = torch.zeros(2, 3, 64, 64, device="cuda", requires_grad=True)

    def step():
        distillation.particle_loss(images, view, STEPS).backward()
        distillation.update_score()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
