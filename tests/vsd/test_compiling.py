"""Compiled UNets: used where they compute the same, refused with one line where they do not."""

import pytest
import torch

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from common.errors import InputError
from vsd.compiling import compile_unets
from vsd.embeddings import encode
from vsd.prior import DiffusionPrior
from vsd.score_network import ScoreNetwork


class Form:
    """In the place of torch.compile's result.

    Args:
        unet: The plain network.
        phi: Its adapter.
        wrong: "prior" or "phi", whose backward then loses half; or "forward", what is computed without a graph.
    """

    def __init__(self, unet, phi, wrong=""):
        self.unet, self.phi, self.wrong, self.calls = unet, phi, wrong, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        out = self.unet(*args, **kwargs)
        if self.wrong == ("phi" if self.phi._on else "prior"):
            out.sample = 0.5 * out.sample + 0.5 * out.sample.detach()
        if self.wrong == "forward" and not torch.is_grad_enabled():
            out.sample = 1.5 * out.sample
        return out


@pytest.fixture
def parts():
    prior = DiffusionPrior(untrained_stable_diffusion(TINY))
    return prior, ScoreNetwork(prior, 2, camera=True), encode(prior, ["a red car"])


def compiled(monkeypatch, parts, wrong="", with_phi=True):
    prior, phi, text = parts
    forms = []
    monkeypatch.setattr(torch, "compile", lambda unet, **options: forms.append(Form(unet, phi, wrong)) or forms[-1])
    compile_unets(prior, phi if with_phi else None, text, text)
    return forms


def test_what_computes_the_same_is_used_and_phi_is_left_as_it_was(monkeypatch, parts):
    prior, phi, text = parts
    before = [p.detach().clone() for p in phi.parameters()]
    x_t, t = torch.randn(1, *prior.latent_shape), torch.tensor([300])
    expected = prior.predict(x_t, t, text), torch.random.get_rng_state()
    forms = compiled(monkeypatch, parts)
    assert torch.equal(torch.random.get_rng_state(), expected[1])
    assert prior.network is forms[-1] and all(torch.equal(p, q) for p, q in zip(phi.parameters(), before, strict=True))
    assert all(p.grad is None for p in phi.parameters())
    calls = forms[-1].calls
    assert torch.equal(prior.predict(x_t, t, text), expected[0]) and forms[-1].calls == calls + 1
    phi.predict(x_t, t, text)
    assert forms[-1].calls == calls + 2


@pytest.mark.parametrize(
    ("wrong", "named"), [("prior", "gradient of x_t"), ("phi", "gradient of [ac]"), ("forward", "value of loss")]
)
def test_what_computes_something_else_is_refused(monkeypatch, parts, wrong, named):
    named = f"^guidance.savings.compile: .* {named}.* has a relative error.*; leave guidance.savings.compile out"
    with pytest.raises(InputError, match=named):
        compiled(monkeypatch, parts, wrong)
    assert parts[0].network is parts[0].unet


def test_without_phi_the_prior_alone_is_compiled(monkeypatch, parts):
    assert len(compiled(monkeypatch, parts, with_phi=False)) == 1


def test_where_nothing_can_be_compiled_one_line_says_so(monkeypatch, parts):
    def fails(unet, **options):
        def form(*_, **__):
            raise RuntimeError("no compiler\nis here")

        return form

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(InputError, match=r"savings.compile: torch .* cannot compile it here \(no compiler is here\)"):
        compile_unets(*parts, parts[2])
