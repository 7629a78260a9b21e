import pytest

from common.errors import InputError
from lightning_modules.particles import RoundRobin


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


@pytest.mark.parametrize(("n", "world"), [(4, 1), (4, 2), (6, 3), (2, 4), (1, 3), (3, 3)])
def test_ranks_share_out_the_particles_evenly(n, world):
    orders = [RoundRobin(n, 1) for _ in range(world)]
    for rank, order in enumerate(orders):
        order.set_rank(rank, world)
    moved = [i for order in orders for step in range(order.steps_per_round) for i in order(step)[0]]
    assert sorted(moved) == sorted(list(range(n)) * max(1, world // n))
    assert len({order.steps_per_round for order in orders}) == 1


@pytest.mark.parametrize(("n", "world"), [(3, 2), (5, 2), (3, 4), (7, 3), (11, 4), (2, 7)])
@pytest.mark.parametrize("m", [1, 2])
def test_what_is_left_over_is_moved_by_several_ranks_in_the_same_steps(n, world, m):
    orders = [RoundRobin(n, 1) for _ in range(world)]
    for rank, order in enumerate(orders):
        order.m = min(m, -(-n // world))
        order.set_rank(rank, world)
    left = n % world
    assert {len(order.own) for order in orders} == {n // world + 1}, "no rank waits for another"
    assert sorted(i for order in orders for i in order.rendered) == list(range(n)), "every particle has a first rank"
    for step in range(3 * orders[0].steps_per_round):
        chosen = [order(step)[0] for order in orders]
        moved = [i for of_rank in chosen for i in of_rank]
        for index in set(moved):
            ranks = [rank for rank, of_rank in enumerate(chosen) if index in of_rank]
            assert ranks == orders[0].together.get(index, [index % world]), "those that average its gradient"
        assert sum(i >= n - left for i in set(moved)) in (0, left)


@pytest.mark.parametrize(("n", "m", "world", "named"), [(3, 3, 2, "per_step: 3 is"), (4, 3, 2, "per_step: 3 is")])
def test_ranks_that_do_not_fit_are_named(n, m, world, named):
    with pytest.raises(InputError, match=named):
        RoundRobin(n, m).set_rank(1, world)


def test_another_number_of_ranks_goes_on_where_the_others_stopped():
    """Two ranks of two particles each made 3 rounds and half of one; one rank goes on with the fifth."""
    before = RoundRobin(4, 1)
    before.set_rank(1, 2)
    assert before(7)[1] == 3
    after = RoundRobin(4, 1)
    after.resume(before.state(), 7)
    assert [after(step)[1] for step in (7, 10, 11)] == [4, 4, 5]
    assert after(after.step_after(6))[1] == 6 and after(after.step_after(6) - 1)[1] == 5
    again = RoundRobin(4, 1)
    again.resume(after.state(), 9)
    assert [again(step) for step in range(7, 20)] == [after(step) for step in range(7, 20)]
