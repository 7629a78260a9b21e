import pytest
import torch

from vsd import gradients as d
from vsd import schedule

SHAPE = (3, 4, 8, 8)


def draw(count):
    return [torch.randn(SHAPE, dtype=torch.float64) for _ in range(count)]


@pytest.fixture
def alphabar():
    return torch.tensor([0.95, 0.4, 0.01], dtype=torch.float64)


def test_sds_is_vsd_with_the_noise_in_the_place_of_the_score_network(alphabar):
    pretrain, eps = draw(2)
    w = d.weight("sigma2", alphabar)
    assert torch.equal(d.sds(pretrain, eps, w), d.vsd(pretrain, eps, w))
    torch.testing.assert_close(d.vsd(pretrain, eps, w)[1], 0.6 * (pretrain - eps)[1])


def test_the_mixture_goes_from_sds_to_vsd(alphabar):
    pretrain, phi, eps = draw(3)
    w = d.weight("sigma2", alphabar)
    assert torch.equal(d.vsd(pretrain, d.mix(eps, phi, 0.0), w), d.sds(pretrain, eps, w))
    assert torch.equal(d.vsd(pretrain, d.mix(eps, phi, 1.0), w), d.vsd(pretrain, phi, w))
    mixed = 0.25 * d.sds(pretrain, eps, w) + 0.75 * d.vsd(pretrain, phi, w)
    torch.testing.assert_close(d.vsd(pretrain, d.mix(eps, phi, 0.75), w), mixed)


def test_damping_pulls_renders_to_what_a_lagging_phi_has_learned(alphabar):
    """With a point mass at mu, eps_phi = (x_t - alpha mu) / sigma; eps adds its share of w alpha / sigma (x_0 - mu)."""
    pretrain, eps, x_0, mu = draw(4)
    w, ab = d.weight("sigma2", alphabar), alphabar[:, None, None, None]
    x_t = ab.sqrt() * x_0 + (1 - ab).sqrt() * eps
    phi = schedule.eps_of_x0(mu, x_t, alphabar)
    added = d.vsd(pretrain, d.mix(eps, phi, 0.75), w) - d.vsd(pretrain, phi, w)
    torch.testing.assert_close(added, 0.25 * w * (ab / (1 - ab)).sqrt() * (x_0 - mu))


def test_esd_goes_from_the_mixture_of_all_cameras_to_vsd(alphabar):
    pretrain, phi, mixture = draw(3)
    w = d.weight("sigma2", alphabar)
    torch.testing.assert_close(d.esd(pretrain, phi, mixture, 1.0, w), d.vsd(pretrain, phi, w))
    torch.testing.assert_close(d.esd(pretrain, phi, mixture, 0.0, w), d.vsd(pretrain, mixture, w))
    middle = (d.vsd(pretrain, phi, w) + d.vsd(pretrain, mixture, w)) / 2
    torch.testing.assert_close(d.esd(pretrain, phi, mixture, 0.5, w), middle)


def test_csd_is_the_difference_that_guidance_scales(alphabar):
    """d/ds of the SDS gradient under guidance scale s is the CSD gradient."""
    text, uncond, eps = draw(3)
    w = d.weight("sigma2", alphabar)
    slope = d.sds(d.guide(text, uncond, 8.0), eps, w) - d.sds(d.guide(text, uncond, 7.0), eps, w)
    torch.testing.assert_close(d.csd(text, uncond, w), slope)


def test_guidance_at_its_fixed_points():
    text, uncond = draw(2)
    torch.testing.assert_close(d.guide(text, uncond, 1.0), text)
    torch.testing.assert_close(d.guide(text, uncond, 0.0), uncond)


def test_perp_neg_removes_only_what_is_perpendicular():
    text, uncond, other = draw(3)
    weights = torch.full((1, 3), -1.0, dtype=torch.float64)
    parallel = d.perp_neg(text, uncond, (uncond + 2.5 * (text - uncond))[None], weights, 7.5)
    torch.testing.assert_close(parallel, d.guide(text, uncond, 7.5))
    pushed = d.perp_neg(text, uncond, other[None], weights, 7.5) - d.guide(text, uncond, 7.5)
    along = (pushed * (text - uncond)).sum((1, 2, 3))
    torch.testing.assert_close(along, torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    assert ((pushed * (other - uncond)).sum((1, 2, 3)) < 0).all(), "away from the other view"
    none = d.perp_neg(text, uncond, other[None], 0 * weights, 7.5)
    torch.testing.assert_close(none, d.guide(text, uncond, 7.5))


def test_conversions_between_eps_v_and_x0_agree(alphabar):
    x_0, eps = draw(2)
    a, s = (x[:, None, None, None] for x in (alphabar.sqrt(), (1 - alphabar).sqrt()))
    x_t = a * x_0 + s * eps
    torch.testing.assert_close(schedule.x0_of_eps(eps, x_t, alphabar), x_0)
    torch.testing.assert_close(schedule.eps_of_x0(x_0, x_t, alphabar), eps)
    torch.testing.assert_close(schedule.eps_of_v(a * eps - s * x_0, x_t, alphabar), eps)


def test_the_v_error_is_the_eps_error_over_alphabar(alphabar):
    x_t, v_1, v_2 = draw(3)
    eps_error = (schedule.eps_of_v(v_1, x_t, alphabar) - schedule.eps_of_v(v_2, x_t, alphabar)).square().mean((1, 2, 3))
    torch.testing.assert_close((v_1 - v_2).square().mean((1, 2, 3)), eps_error / alphabar)


def test_rescale_matches_the_contrast_of_the_unguided_picture(alphabar):
    text, uncond, x_t = draw(3)
    eps = d.guide(text, uncond, 20.0)
    torch.testing.assert_close(d.rescale(eps, text, x_t, alphabar, 0.0), eps)
    full = schedule.x0_of_eps(d.rescale(eps, text, x_t, alphabar, 1.0), x_t, alphabar)
    plain = schedule.x0_of_eps(text, x_t, alphabar)
    torch.testing.assert_close(full.std((1, 2, 3)), plain.std((1, 2, 3)))


def test_the_loss_carries_exactly_the_gradient():
    x_0, gradient = draw(2)
    x_0.requires_grad_(True)
    loss = d.as_loss(x_0, gradient)
    loss.backward()
    torch.testing.assert_close(x_0.grad, gradient / 3)
    assert loss.item() == pytest.approx(0.5 * gradient.square().sum().item() / 3)


def test_clamping_and_finiteness():
    gradient = torch.tensor([-3.0, 0.5, 2.0])
    assert d.clamp_gradient(gradient, 1.0).tolist() == [-1.0, 0.5, 1.0]
    assert d.is_finite(gradient) and not d.is_finite(torch.tensor([1.0, float("nan")]))
    assert not d.is_finite(torch.tensor([float("inf")]))


def test_the_weights_are_their_formulas(alphabar):
    x_0, x_0_pretrain = torch.randn(2, len(alphabar), 4, 8, 8)
    alpha, sigma = alphabar.sqrt(), (1 - alphabar).sqrt()
    assert torch.equal(d.weight("none", alphabar), torch.ones(len(alphabar), 1, 1, 1))
    torch.testing.assert_close(d.weight("sigma2", alphabar).flatten(), sigma**2)
    torch.testing.assert_close(d.weight("snr", alphabar).flatten(), sigma / alpha)
    mean = torch.stack([(a - b).abs().sum() / a.numel() for a, b in zip(x_0, x_0_pretrain, strict=True)])
    torch.testing.assert_close(d.weight("dmd", alphabar, x_0, x_0_pretrain).flatten(), sigma / alpha / mean)
    assert all(d.weight(kind, torch.zeros(1), x_0[:1], x_0[:1]).isfinite().all() for kind in ("snr", "dmd"))


def test_a_difference_of_noise_with_the_snr_weight_is_that_of_the_clean_predictions(alphabar):
    x_t, pretrain, phi = torch.randn(3, len(alphabar), 4, 8, 8, dtype=torch.float64)
    alphabar = alphabar.double()
    ours = d.vsd(pretrain, phi, d.weight("snr", alphabar))
    theirs = schedule.x0_of_eps(phi, x_t, alphabar) - schedule.x0_of_eps(pretrain, x_t, alphabar)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("reduction", "divisor"), [("batch", 3), ("mean", 3 * 4 * 8 * 8), ("none", 1)])
def test_a_reduction_scales_the_gradient(reduction, divisor):
    x_0 = torch.randn(3, 4, 8, 8, requires_grad=True)
    gradient = torch.randn(3, 4, 8, 8)
    loss = d.as_loss(x_0, gradient, reduction)
    assert loss.shape == ((3,) if reduction == "none" else ())
    loss.sum().backward()
    torch.testing.assert_close(x_0.grad, gradient / divisor, atol=1e-6, rtol=1e-5)
    squares = gradient.square().flatten(1).sum(1) / 2
    torch.testing.assert_close(loss.sum(), squares.sum() / divisor, rtol=1e-4, atol=1e-5)
