import pytest
import torch

from common.errors import InputError
from vsd.timesteps import Timesteps


def test_two_phase_switches_in_particle_steps():
    schedule = Timesteps(steps=100, switch=0.2)
    assert schedule.range(0) == schedule.range(19) == (0.02, 0.98)
    assert schedule.range(20) == schedule.range(100) == schedule.range(10**6) == (0.02, 0.5)


def test_linear_and_sqrt_and_fixed():
    linear = Timesteps(steps=10, kind="linear", low=0.6, high=1.0, late_low=0.0, late_high=0.5)
    assert linear.range(0) == (0.6, 1.0) and linear.range(10) == pytest.approx((0.0, 0.5))
    assert linear.range(5) == pytest.approx((0.3, 0.75))
    sqrt = Timesteps(steps=100, kind="sqrt", high=0.98, late_high=0.3)
    assert sqrt.range(0) == (0.98, 0.98) and sqrt.range(25)[0] == pytest.approx(0.98 - 0.68 * 0.5)
    assert sqrt.range(100)[0] == pytest.approx(0.3)
    fixed = Timesteps(steps=100, kind="fixed")
    assert fixed.range(0) == fixed.range(99) == (0.02, 0.98)


def test_samples_are_uniform_in_their_particles_range_and_reproducible():
    schedule = Timesteps(steps=100, switch=0.5)
    steps = torch.tensor([0, 99]).repeat(20000)
    drawn = schedule.sample(steps, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, schedule.sample(steps, 1000, torch.Generator().manual_seed(0)))
    early, late = drawn[0::2].double(), drawn[1::2].double()
    assert early.min() == 20 and early.max() == 979 and late.min() == 20 and late.max() == 499
    assert early.mean().item() == pytest.approx(499.5, abs=8) and late.mean().item() == pytest.approx(259.5, abs=4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"low": 0.9, "high": 0.5}, "timesteps.low: 0.9 is above guidance.timesteps.high, 0.5"),
        ({"late_low": 0.6, "late_high": 0.5}, "timesteps.late_low"),
        ({"high": 1.2}, "timesteps.high: 1.2"),
        ({"switch": -0.1}, "timesteps.switch"),
        ({"steps": 0}, "timesteps.steps"),
    ],
)
def test_impossible_ranges_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        Timesteps(**{"steps": 100, **arguments})
