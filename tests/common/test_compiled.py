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
