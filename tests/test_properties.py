"""Properties that hold for all inputs: schedules, cameras, view sectors, particles over ranks."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from datamodules.random_cameras import CameraDistribution
from lightning_modules.particles import RoundRobin
from scene.cameras import Orbit, look_at
from vsd.schedule import add_noise, eps_of_v, eps_of_x0, v_of_eps, x0_of_eps
from vsd.timesteps import Timesteps
from vsd.views import Sector, ViewSectors, eight_sectors

settings.register_profile("quick", derandomize=True, max_examples=60, deadline=None, database=None)
settings.load_profile("quick")

UNIT = st.floats(0, 1)
ANGLES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8)
KINDS = st.sampled_from(["two-phase", "linear", "sqrt", "fixed"])


def ordered(low: float, high: float) -> st.SearchStrategy:
    """Ranges in [low, high]."""
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: tuple(sorted(pair)))


@given(st.integers(1, 10**6), KINDS, ordered(0, 1), ordered(0, 1), UNIT, st.lists(st.integers(0, 10**7), min_size=1))
def test_a_schedule_stays_in_its_ends_and_keeps_its_last_range(steps, kind, ends, late, switch, at):
    schedule = Timesteps(steps, kind, *ends, *late, switch)
    for step in at:
        low, high = schedule.range(step)
        assert 0 <= low <= high + 1e-12 and high <= 1
        assert min(ends[0], late[0], late[1]) - 1e-9 <= low and high <= max(ends[1], late[1]) + 1e-9
        if step >= steps:
            assert (low, high) == schedule.range(steps)
    drawn = schedule.sample(torch.tensor(at), 1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0 and drawn.max() <= 999


@given(st.sampled_from(["low", "high", "late_low", "late_high", "switch"]), st.sampled_from([math.nan, -0.1, 1.1]))
def test_a_schedule_refuses_what_is_no_fraction(name, value):
    with pytest.raises(InputError, match=f"timesteps.{name}: "):
        Timesteps(10, **{name: value})


@given(st.lists(st.floats(1e-3, 1 - 1e-3), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_what_a_network_predicts_is_converted_back_and_forth(alphabar, seed):
    alphabar = torch.tensor(alphabar, dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, len(alphabar), 3, 2, 2, generator=draws, dtype=torch.float64)
    x_t = add_noise(x_0, eps, alphabar)
    torch.testing.assert_close(x0_of_eps(eps, x_t, alphabar), x_0, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(eps_of_x0(x_0, x_t, alphabar), eps, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(eps_of_v(v_of_eps(eps, x_0, alphabar), x_t, alphabar), eps, atol=1e-6, rtol=1e-6)


@given(
    st.lists(st.tuples(st.floats(-720, 720), st.floats(-90, 90), st.floats(0.1, 50)), min_size=1, max_size=6),
    st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=3),
)
def test_a_camera_is_a_rotation_that_looks_at_its_target(places, target):
    azimuth, elevation, distance = torch.tensor(places, dtype=torch.float64).unbind(1)
    position = Orbit(azimuth, elevation, distance, torch.full_like(distance, 40.0)).positions()
    torch.testing.assert_close(position.norm(dim=1), distance)
    target = torch.tensor(target, dtype=torch.float64).expand_as(position)
    matrix = look_at(position, target)
    rotation = matrix[:, :3, :3]
    unit = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), unit, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones_like(distance))
    seen = (target - position) / (target - position).norm(dim=1, keepdim=True)
    torch.testing.assert_close(-matrix[:, :3, 2], seen)


RANGES = {
    "distance": ordered(1, 20),
    "fovy": ordered(1, 179),
    "azimuth": ordered(-360, 360),
    "elevation": ordered(-90, 90),
    "sphere_elevation": ordered(-90, 90),
    "sphere_share": UNIT,
    "uniform_azimuth": st.booleans(),
}


@given(st.fixed_dictionaries(RANGES), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_random_cameras_keep_to_their_ranges_and_are_a_function_of_the_seed(ranges, count, seed):
    assert RANGES.keys() <= {field.name for field in fields(CameraDistribution)}
    distribution = CameraDistribution(**ranges)
    drawn, again = (distribution.sample(count, 16, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(drawn.camera_to_world, again.camera_to_world)
    elevation = [f(*(ranges[k][i] for k in ("elevation", "sphere_elevation"))) for i, f in enumerate((min, max))]
    for name in ("distance", "fovy", "azimuth", "elevation"):
        low, high = elevation if name == "elevation" else ranges[name]
        values = getattr(drawn, name)
        assert values.isfinite().all() and values.min() >= low - 1e-3 and values.max() <= high + 1e-3, name
    assert drawn.camera_to_world.isfinite().all()


@given(st.lists(st.integers(1, 359), min_size=0, max_size=6, unique=True), st.integers(-360, 360), ANGLES)
def test_every_view_is_in_one_sector(cuts, turn, azimuths):
    cuts = sorted(cuts)
    edges = [turn, *(turn + cut for cut in cuts), turn + 360]
    sectors = [Sector(str(i), float(a), float(b)) for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False))]
    views = ViewSectors(tuple(sectors))
    azimuth = torch.tensor(azimuths, dtype=torch.float64)
    found = views.index(azimuth, torch.zeros_like(azimuth))
    for angle, index in zip(azimuth.tolist(), found.tolist(), strict=True):
        assert (angle - sectors[index].start) % 360 < sectors[index].stop - sectors[index].start
    assert (views.index(azimuth, torch.full_like(azimuth, 61.0)) == len(sectors)).all()
    if len(sectors) > 1:
        with pytest.raises(InputError, match=r"sectors must cover 360 degrees once"):
            ViewSectors(tuple(sectors[1:]))


@given(ANGLES, st.floats(-90, 90))
def test_perp_neg_is_periodic_and_mirrors_left_and_right(azimuths, height):
    views = eight_sectors()
    azimuth = torch.tensor(azimuths, dtype=torch.float64)
    azimuth = azimuth[((azimuth + 180) % 360 - 180).abs() < 179.9]  # where left meets right
    elevation = torch.full_like(azimuth, height)
    first, second, weight = views.between(azimuth, elevation)
    assert ((weight >= 0) & (weight <= 1)).all()
    assert max([*first.tolist(), *second.tolist()], default=0) < len(views.words)
    weights = views.negatives(azimuth, elevation)[1]
    assert (weights <= 0).all()
    for other in (azimuth + 360, -azimuth):
        torch.testing.assert_close(views.between(other, elevation)[2], weight, atol=1e-6, rtol=0)
        torch.testing.assert_close(views.negatives(other, elevation)[1], weights, atol=1e-6, rtol=0)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99), st.integers(0, 40))
def test_every_round_moves_every_particle_of_a_rank_once_and_the_ranks_have_all(n, m, world, seed, step):
    ranks = []
    for rank in range(world):
        try:
            order = RoundRobin(n, min(n, m), seed)
            order.set_rank(rank, world)
        except InputError:
            return  # they cannot be distributed
        ranks.append(order)
    assert sorted({i for order in ranks for i in order.own}) == list(range(n))
    assert sorted(i for order in ranks for i in order.rendered) == list(range(n)), "each is rendered by one rank"
    for order in ranks:
        first = step - step % order.steps_per_round
        moved = [order(s) for s in range(first, first + order.steps_per_round)]
        assert sorted(i for chosen, _ in moved for i in chosen) == sorted(order.own)
        assert {particle_step for _, particle_step in moved} == {first // order.steps_per_round}
        assert order.step_after(first // order.steps_per_round) == first
        resumed = RoundRobin(n, min(n, m), seed)
        resumed.set_rank(ranks.index(order), world)
        resumed.resume(order.state(), step)
        assert resumed(step) == order(step)
