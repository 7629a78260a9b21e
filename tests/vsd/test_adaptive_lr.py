"""phi's learning rate under phi's health: its direction, its bounds, ranks, and resuming."""

from types import SimpleNamespace

import pytest
import torch

from vsd.embeddings import encode
from vsd.prior import DiffusionPrior
from vsd.score_network import ScoreNetwork
from vsd.score_trainer import CALIBRATED, CEILING, GAIN, WITHIN, ScoreSettings, ScoreTrainer


@pytest.fixture
def trainer(tiny_sd):
    def build(adaptive=True, average=None, lr=1e-3):
        torch.manual_seed(0)
        network = ScoreNetwork(DiffusionPrior.load(tiny_sd / "eps"), 2)
        return ScoreTrainer(network, ScoreSettings(lr=lr, warmup=1, adaptive_lr=adaptive), average=average)

    return build


def health(ratio, calibration):
    return SimpleNamespace(ratio=lambda: torch.tensor(ratio), calibration=lambda: torch.tensor(calibration))


LAGS, FITS, RUNS_AWAY = health(0.9, CALIBRATED - 0.01), health(0.9, 1.0), health(1.01, 0.5)
UNKNOWN = health(torch.nan, torch.nan)


@pytest.mark.parametrize(("state", "factor"), [(LAGS, GAIN), (FITS, 1), (RUNS_AWAY, 1 / GAIN), (UNKNOWN, 1)])
def test_the_rate_follows_phis_health(trainer, state, factor):
    trained = trainer()
    for _ in range(3):
        trained.adapt(state)
    assert float(trained.rate) == pytest.approx(1e-3 * factor**3, rel=1e-5)


@pytest.mark.parametrize(
    ("lr", "state", "bound"),
    [
        (1e-5, LAGS, 1e-5 * WITHIN),
        (1e-3, LAGS, CEILING),
        (1e-2, LAGS, 1e-2),
        (1e-3, RUNS_AWAY, 1e-3 / WITHIN),
        (1e-2, RUNS_AWAY, 1e-2 / WITHIN),
    ],
)
def test_the_rate_stays_within_its_bounds(trainer, lr, state, bound):
    trained = trainer(lr=lr)
    for _ in range(400):
        trained.adapt(state)
    assert float(trained.rate) == pytest.approx(bound, rel=1e-5)


def test_a_rate_that_is_not_adaptive_stays(trainer):
    trained = trainer(adaptive=False)
    trained.adapt(LAGS)
    assert float(trained.rate) == pytest.approx(1e-3)


def test_ranks_that_disagree_take_the_same_rate(trainer):
    def of_two_ranks(tensors):
        tensors[0].copy_(torch.tensor([0.9, (0.5 + 1.0) / 2]))  # the other rank's phi lags, this one's does not

    trained = trainer(average=of_two_ranks)
    trained.adapt(FITS)
    assert float(trained.rate) == pytest.approx(1e-3 * GAIN, rel=1e-5)


def stepped(trained, count):
    prior = trained.network.base
    text, x_0 = encode(prior, ["a"]).repeat(2), torch.ones(2, *prior.latent_shape)
    for _ in range(count):
        trained.update(x_0, text)
    return [p.detach().clone() for p in trained.network.parameters()]


def test_an_update_uses_the_rate_and_at_the_starting_rate_is_that_of_a_plain_trainer(trainer):
    raised, plain, fixed = trainer(), trainer(), trainer(adaptive=False)
    raised.rate *= 10
    weights = [stepped(t, 1) for t in (raised, plain, fixed)]
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*weights[1:], strict=True))
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(*weights[:2], strict=True))


def test_a_resumed_trainer_has_the_rate_it_had(trainer):
    whole, first, second = trainer(), trainer(), trainer()
    for trained in (whole, first):
        trained.adapt(LAGS)
        stepped(trained, 2)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.rate, whole.rate)
    for a, b in zip(stepped(whole, 2), stepped(second, 2), strict=True):
        assert torch.equal(a, b)
