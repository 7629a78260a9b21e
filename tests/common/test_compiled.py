import pytest
import torch
from torch import nn

from common.compiled import compile_checked
from common.errors import InputError


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer, self.unused = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x, cut=False):
        hidden = self.inner(x).tanh()
        return self.outer(hidden.detach() if cut else hidden)


@pytest.fixture
def network():
    return Network()


def check(network, monkeypatch, compiled):
    monkeypatch.setattr(torch, "compile", lambda _, **options: compiled)
    x = torch.randn(8, 4)
    return compile_checked(network, dict(network.named_parameters()), lambda form: form(x).square().mean())


def test_a_compiled_network_with_the_same_gradients_is_used_and_leaves_none(network, monkeypatch):
    compiled = check(network, monkeypatch, lambda x: 1.0001 * network(x))
    assert compiled(torch.ones(1, 4)) == 1.0001 * network(torch.ones(1, 4))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_dropped_gradient_is_refused_by_name(network, monkeypatch):
    with pytest.raises(InputError, match=r"^model.compile: .* gradient of inner.\w+ has a relative error of (1|0.9)"):
        check(network, monkeypatch, lambda x: network(x, cut=True))


def test_a_gradient_that_is_no_number_is_refused(network, monkeypatch):
    with pytest.raises(InputError, match="relative error of nan"):
        check(network, monkeypatch, lambda x: network(x) * float("nan"))


@pytest.fixture
def check_cancelling(monkeypatch):
    """Checks, under autocast, a gradient that is `factor` times the right one, of which bfloat16 rounds off most."""
    layer, x = nn.Linear(16, 1), torch.linspace(1, 2, 16)[None]
    pair, sign = torch.cat([x, 1.001 * x]), torch.tensor([[1.0], [-1.0]])

    def run(factor):
        def scaled(x):
            return factor * layer(x) - (factor - 1) * layer(x).detach()

        monkeypatch.setattr(torch, "compile", lambda _, **options: scaled)
        with torch.autocast("cpu", torch.bfloat16):
            compile_checked(layer, dict(layer.named_parameters()), lambda form: 1 + (form(pair) * sign).mean())

    return run


def test_a_gradient_may_differ_by_what_autocast_itself_rounds_off(check_cancelling, monkeypatch):
    check_cancelling(1.3)
    monkeypatch.setattr("common.compiled.ROUNDING", 0.0)
    with pytest.raises(InputError, match="gradient of weight has a relative error of 0.2"):
        check_cancelling(1.3)


def test_a_gradient_that_differs_by_more_is_refused_under_autocast_too(check_cancelling):
    with pytest.raises(InputError, match="gradient of weight"):
        check_cancelling(30)
