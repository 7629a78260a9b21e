"""Phi's health: its closed forms, what it does to faults of phi, and that a run's figures follow it."""

import pytest
import torch
from test_guidance import Stage, trainer

from vsd.guidance import VSDGuidance
from vsd.health import BINS, DECAY, SURE, PhiHealth
from vsd.timesteps import Timesteps

T = 1000


def batch(t, seed=0):
    draws = torch.Generator().manual_seed(seed)
    eps = torch.randn(len(t), 4, 8, 8, generator=draws)
    return torch.tensor(t), eps, torch.randn(eps.shape, generator=draws)


def test_there_is_no_figure_before_the_first_step():
    assert PhiHealth(T).figures() == {}


def test_the_ratio_of_one_step_is_that_of_the_squared_errors():
    t, eps, other = batch([10, 20])
    health = PhiHealth(T)
    health.observe(t, eps, eps + 0.1 * other, eps + 0.2 * other)
    assert float(health.ratio()) == pytest.approx(0.25, rel=1e-5)


def test_noise_levels_count_alike_however_different_their_errors():
    t, eps, other = batch([0, T - 1])
    scale = torch.tensor([1.0, 1e-3])[:, None, None, None]
    health = PhiHealth(T)
    factor = torch.tensor([1.0, 2.0])[:, None, None, None]
    health.observe(t, eps, eps + factor * scale * other, eps + scale * other)
    assert float(health.ratio()) == pytest.approx((1 + 4) / 2, rel=1e-4)


def test_the_best_predictor_is_calibrated_and_one_that_claims_too_much_is_not():
    """eps = known + unknown, both of variance 1/2: the mean of eps given the known half is that half."""
    draws = torch.Generator().manual_seed(1)
    known, unknown = (torch.randn(64, 4, 16, 16, generator=draws) / 2**0.5 for _ in range(2))
    t, eps = torch.full((64,), 500), known + unknown
    good, bold = PhiHealth(T), PhiHealth(T)
    good.observe(t, eps, known, eps)
    bold.observe(t, eps, 2 * known, eps)
    assert float(good.calibration()) == pytest.approx(1, abs=0.01)
    assert float(bold.calibration()) == pytest.approx(0.5, abs=0.01)


def test_old_steps_fade_and_levels_that_are_no_longer_drawn_drop_out():
    t, eps, other = batch([10, 990])
    health = PhiHealth(T)
    health.observe(t, eps, eps + 2 * other, eps + other)
    for _ in range(400):
        health.observe(t[:1], eps[:1], eps[:1] + other[:1] / 2, eps[:1] + other[:1])
    assert float(health.ratio()) == pytest.approx(0.25, abs=0.01)
    assert DECAY**400 < 0.001 and BINS > 1


def test_values_that_are_not_finite_leave_the_figures_finite():
    t, eps, other = batch([10, 20])
    health = PhiHealth(T)
    health.observe(t, eps, eps + other, eps + other)
    health.observe(t, eps, eps * torch.nan, eps + other)
    assert health.ratio().isfinite() and health.calibration().isfinite()


def test_a_restored_health_continues_with_the_same_figures():
    t, eps, other = batch([10, 700])
    one, two = PhiHealth(T), PhiHealth(T)
    one.observe(t, eps, eps + 0.3 * other, eps + other)
    two.load_state_dict(one.state_dict())
    for health in (one, two):
        health.observe(t, eps, eps + 0.1 * other, eps + other)
    assert one.figures() == two.figures() and one.observed == 2


def observed(eps_phi, steps=SURE):
    health = PhiHealth(T)
    t, eps, other = batch([100, 600])
    for _ in range(steps):
        health.observe(t, eps, eps_phi(eps, other), eps + other)
    return health


def test_a_phi_that_lags_or_has_run_away_is_named_with_a_remedy_and_a_good_one_is_not():
    assert "lags" in observed(lambda eps, other: 1.6 * eps).warning()
    away = observed(lambda eps, other: eps + 2 * other).warning()
    assert "run away" in away and "4.0 times" in away and "guidance.score.lr" in away
    assert observed(lambda eps, other: eps + 0.1 * other).warning() is None
    early = observed(lambda eps, other: 1.6 * eps, steps=SURE - 1)
    assert early.warning() is None and "lags" in early.warning(sure=100)


def test_a_run_says_once_that_its_phi_lags(untrained_prior, capsys):
    callback, stage = VSDGuidance("a red car", Timesteps(10), model=str(untrained_prior)), Stage()
    callback.setup(trainer(), stage, "fit")
    callback.core.health.load_state_dict(observed(lambda eps, other: 1.6 * eps).state_dict())
    callback._report_health(SURE)
    callback._report_health(SURE)
    assert capsys.readouterr().out.count("warning: guidance.score: phi lags") == 1
