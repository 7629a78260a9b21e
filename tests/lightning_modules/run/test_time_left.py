import pytest

from lightning_modules.run.place import Place, place
from lightning_modules.run.time_left import PHI, Part, TimeLeft


def clocked(parts, after=(), seconds=None, steps=0, begin=0):
    """A clock after `steps` steps, of which step i took seconds(i)."""
    clock, now = TimeLeft(parts, after), 50.0
    clock.begin(begin, now)
    for step in range(begin, begin + steps):
        now += seconds(step)
        clock.advance(step + 1, now)
    return clock


def test_steps_of_one_kind_take_their_mean():
    clock = clocked([Part(100, True)], seconds=lambda i: 1 + i % 2, steps=20)
    assert clock.left() == (pytest.approx(80 * 1.5), True) and clock.words() == "0:02:00 left"


def test_what_is_yet_to_come_is_estimated_by_the_stated_ratio():
    clock = clocked([Part(10, False), Part(30, True)], [Part(5, False)], lambda _: 2.0, steps=4)
    assert clock.left() == (pytest.approx(2 * (6 + PHI * 30 + 5)), False)
    assert clock.words().startswith("about ")


def test_the_phase_of_now_is_measured_alone_and_sets_what_follows():
    clock = clocked([Part(10, False), Part(30, True)], [Part(5, False)], lambda i: 1.0 if i < 10 else 7.0, steps=13)
    assert clock.speed == pytest.approx(7)
    assert clock.left() == (pytest.approx(27 * 7 + 5 * 7 / PHI), False)


def test_a_speed_that_was_measured_before_is_known_to_the_end():
    clock = clocked([Part(10, False), Part(10, True)], seconds=lambda i: 1.0 if i < 10 else 3.0, steps=11)
    assert clock.left() == (pytest.approx(27), True)


def test_a_resumed_stage_measures_from_where_it_resumes():
    clock = clocked([Part(10, False), Part(30, True)], seconds=lambda _: 3.0, begin=15, steps=2)
    assert clock.left() == (pytest.approx(23 * 3), True)


def test_a_pause_counts_for_nothing():
    clock = clocked([Part(10, True)], seconds=lambda _: 1.0, steps=4)
    clock.skip(1000.0)
    clock.advance(5, 50.0 + 4 + 1000 + 1)
    assert clock.left() == (pytest.approx(5), True)


def test_the_last_step_leaves_nothing():
    assert clocked([Part(3, True)], seconds=lambda _: 1.0, steps=3).words() == "0:00:00 left"


def test_a_place_reaches_the_process_of_its_stage():
    here = Place("geometry", 2, 3, 900, [Part(80, False), Part(120, True)], quiet=True)
    assert place(here.environment()) == here and here.words == "2/3 geometry"
    assert place({}) == Place() and Place().words == ""
