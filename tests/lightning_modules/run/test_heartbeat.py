"""Ranks that tell each other where they are; the signals that stop one are in test_parallel.py."""

import time

import pytest

from lightning_modules.run import heartbeat
from lightning_modules.run.heartbeat import Heartbeats

STALL = 0.6


@pytest.fixture
def two(monkeypatch):
    """Two ranks in this process, whose places are set by hand, and what they end with."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    ranks, words, port = [], [], 0
    for rank in range(2):
        beats = Heartbeats()
        beats.rank, beats.world, beats.stall, beats.place = rank, 2, STALL, "0 works"

        def end(said, over=None, beats=beats):
            words.append(said)
            beats._over.set()

        monkeypatch.setattr(beats, "_place", lambda beats=beats: beats.place)
        monkeypatch.setattr(beats, "_end", end)
        port = beats._open("127.0.0.1", port)
        beats._start()
        ranks.append(beats)
    yield *ranks, words
    for beats in ranks:
        beats._over.set()
    for beats in reversed(ranks):
        for thread in beats._threads:
            thread.join()


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_rank_that_stays_in_one_place_while_the_other_waits_is_named(two, stuck):
    *ranks, words = two
    ranks[1 - stuck].place = "0 waits"
    end = time.monotonic() + 30
    while not words and time.monotonic() < end:
        time.sleep(0.02)
    assert words[:1] == [f"rank {stuck} has stayed in one place for {STALL} s while others wait for it"]


@pytest.mark.parametrize("places", [("0 works", "0 works"), ("0 waits", "0 waits"), ("0 waits", None)])
def test_ranks_that_move_or_none_of_which_waits_go_on(two, places):
    *ranks, words = two
    end, moves = time.monotonic() + 4 * STALL, 0
    while time.monotonic() < end:
        moves += 1
        for beats, place in zip(ranks, places, strict=True):
            beats.place = place or f"{moves} works"
        time.sleep(0.05)
    assert not words
    assert {0, 1} <= ranks[0].places.keys(), "the second was heard"


def test_a_place_tells_the_moves_and_whether_the_main_thread_is_in_the_code_that_waits_for_ranks():
    beats = Heartbeats()
    assert beats._place() == "0 works"
    beats.on_train_batch_end()
    waits: dict = {}
    exec(compile("def barrier(inner): return inner()", "lib/torch/distributed/c10d.py", "exec"), waits)
    assert waits["barrier"](beats._place) == "1 waits" and beats._place() == "1 works"
