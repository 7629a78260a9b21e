import pytest

from lightning_modules.particles import RoundRobin
from vsd.errors import InputError


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 1), (4, 4), (6, 2), (5, 2), (7, 3)])
def test_a_round_moves_every_particle_once(n, m):
    order = RoundRobin(n, m)
    steps = [order(i) for i in range(3 * order.steps_per_round)]
    for round_number in range(3):
        part = [s for s in steps if s[1] == round_number]
        assert sorted(i for chosen, _ in part for i in chosen) == list(range(n))
        assert all(len(set(chosen)) == len(chosen) <= m for chosen, _ in part)


def test_rounds_are_shuffled_by_the_seed():
    a, b, c = RoundRobin(16, 4, 0), RoundRobin(16, 4, 0), RoundRobin(16, 4, 1)
    assert [a(i) for i in range(8)] == [b(i) for i in range(8)] != [c(i) for i in range(8)]
    assert a(0)[0] != a(4)[0], "another order in the next round"


@pytest.mark.parametrize(
    ("n", "m", "named"), [(0, 1, "model.particles: 0"), (2, 3, "particles_per_step: 3"), (2, 0, "per_step: 0")]
)
def test_impossible_numbers_are_named(n, m, named):
    with pytest.raises(InputError, match=named):
        RoundRobin(n, m)
