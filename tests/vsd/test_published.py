"""The core against published formulas, written from their equations on the networks' own outputs.

s is the predicted noise. eps_theta and eps_phi are calls of diffusers' UNet; nothing of the project computes with them.
"""

import pytest
import torch
import torch.nn.functional as F

from toybox.prior.architecture import untrained_pipeline
from toybox.world.captions import VOCABULARY
from vsd import Conditions, DiffusionPrior, ScoreDistillation, ScoreNetwork
from vsd.embeddings import encode

PROMPTS = ["a red car", "a blue duck", "a white house"]
T = torch.tensor([50, 400, 800])


class Phi:
    """The caller's own score network: any object that predicts noise, here a second UNet (DMD's fake score)."""

    def __init__(self, prior):
        self.prior = prior

    def predict(self, x_t, t, text, cameras=None):
        return self.prior.predict(x_t, t, text)


def make_prior(seed, prediction):
    pipeline = untrained_pipeline(VOCABULARY, seed)
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    return DiffusionPrior(pipeline)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def setting(request):
    """Two priors, a prompt per sample, latents, noise, and the plain numbers alpha and sigma."""
    prior, fake = make_prior(0, request.param), make_prior(1, request.param)
    text, empty = encode(prior, PROMPTS), encode(prior, [""] * 3)
    x_0, eps = torch.randn(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    alphabar = prior.pipeline.scheduler.alphas_cumprod[T].view(3, 1, 1, 1)
    alpha, sigma = alphabar.sqrt(), (1 - alphabar).sqrt()
    x_t = alpha * x_0 + sigma * eps

    def noise_of(model, *states):
        count = len(states)
        with torch.no_grad():  # one batch: float32 sums depend on its size
            out = model.pipeline.unet(x_t.repeat(count, 1, 1, 1), T.repeat(count), torch.cat(states)).sample.chunk(
                count
            )
        noise = [alpha * o + sigma * x_t if request.param == "v_prediction" else o for o in out]
        return noise if count > 1 else noise[0]

    with_text, uncond = noise_of(prior, text.states, empty.states)
    guided = uncond + 7.5 * (with_text - uncond)
    return prior, fake, Conditions(text, empty), x_0, eps, x_t, alpha, sigma, guided, noise_of


def gradient_of(distillation, x_0, eps, conditions):
    latents = x_0.clone().requires_grad_(True)
    distillation.loss(latents, conditions, T, eps).backward()
    return latents.grad


def test_prolificdreamer(setting):
    """Equation 9: w(t) (eps_pretrain - eps_phi) dg/dtheta, w = sigma_t^2, the mean over the batch."""
    prior, fake, conditions, x_0, eps, x_t, alpha, sigma, guided, noise_of = setting
    expected = sigma**2 * (guided - noise_of(fake, conditions.text.states)) / 3
    ours = gradient_of(ScoreDistillation(prior, Phi(fake)), x_0, eps, conditions)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_swiftbrush(setting):
    """Algorithm 1: the same difference for a one-step student, the loss a mean over all elements."""
    prior, fake, conditions, x_0, eps, x_t, alpha, sigma, guided, noise_of = setting
    latents = x_0.clone().requires_grad_(True)
    step = sigma**2 * (guided - noise_of(fake, conditions.text.states))
    (0.5 * F.mse_loss(latents, (latents - step).detach())).backward()
    ours = gradient_of(ScoreDistillation(prior, Phi(fake), reduction="mean"), x_0, eps, conditions)
    torch.testing.assert_close(ours, latents.grad, atol=1e-6, rtol=1e-5)


def dmd_step(setting):
    """(x_fake - x_real) / mean |x - x_real|: DMD, equations 7 and 8; DMD2 and OSEDiff take it over."""
    prior, fake, conditions, x_0, eps, x_t, alpha, sigma, guided, noise_of = setting
    real = (x_t - sigma * guided) / alpha
    fakes = (x_t - sigma * noise_of(fake, conditions.text.states)) / alpha
    return (fakes - real) / (x_0 - real).abs().mean((1, 2, 3), keepdim=True)


def test_dmd(setting):
    """Algorithm 2: half the mean square error to the latents moved by the step."""
    prior, fake, conditions, x_0, eps, *_ = setting
    latents = x_0.clone().requires_grad_(True)
    (0.5 * F.mse_loss(latents, (latents - dmd_step(setting)).detach())).backward()
    ours = gradient_of(ScoreDistillation(prior, Phi(fake), weight="dmd", reduction="mean"), x_0, eps, conditions)
    torch.testing.assert_close(ours, latents.grad, atol=1e-6, rtol=1e-4)


def test_osediff(setting):
    """Equation 8: DMD's step, the mean square error without the half."""
    prior, fake, conditions, x_0, eps, *_ = setting
    latents = x_0.clone().requires_grad_(True)
    F.mse_loss(latents, (latents - dmd_step(setting)).detach()).backward()
    ours = gradient_of(ScoreDistillation(prior, Phi(fake), weight="dmd", reduction="mean"), x_0, eps, conditions)
    torch.testing.assert_close(2 * ours, latents.grad, atol=1e-6, rtol=1e-4)


def test_the_loss_of_phi_is_the_plain_diffusion_loss(setting):
    """ProlificDreamer's equation 8 without a camera, SwiftBrush's and OSEDiff's LoRA loss: mean |eps_phi - eps|^2."""
    prior, _, conditions, x_0, eps, *_ = setting
    pipeline = untrained_pipeline(VOCABULARY, 2)
    pipeline.scheduler.register_to_config(prediction_type=prior.pipeline.scheduler.config.prediction_type)
    phi = ScoreNetwork(DiffusionPrior(pipeline), rank=2)
    for parameter in phi.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    pipeline.unet.set_adapter("phi")
    pipeline.unet.enable_adapters()
    alphabar = pipeline.scheduler.alphas_cumprod[T].view(3, 1, 1, 1)
    alpha, sigma = alphabar.sqrt(), (1 - alphabar).sqrt()
    x_t = alpha * x_0 + sigma * eps
    with torch.no_grad():
        out = pipeline.unet(x_t, T, conditions.text.states).sample
    predicted = alpha * out + sigma * x_t if phi.base.is_v else out
    expected = F.mse_loss(predicted, eps)
    ours = phi.loss(x_0, conditions.text, t=T, eps=eps, v_objective=False)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours, F.mse_loss(phi.base.predict(x_t, T, conditions.text), eps)), "phi is not the prior"
