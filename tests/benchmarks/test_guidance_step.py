import pytest
import torch

from benchmarks import guidance_step as benchmark
from benchmarks.timing import interleaved
from benchmarks.untrained_sd import TINY, byte_tokenizer, untrained_stable_diffusion


@pytest.fixture(autouse=True)
def threads():
    """The benchmarks set the number of threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch):
    """Tiny networks in the place of those that are timed."""
    monkeypatch.setattr(benchmark, "load_pipeline", lambda: untrained_stable_diffusion(TINY, "v_prediction"))
    monkeypatch.setattr(benchmark, "untrained_stable_diffusion", lambda size: untrained_stable_diffusion(TINY))


def run(capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--repeats", "2", "--threads", "1"])
    return ended.value.code, capsys.readouterr().out


@pytest.mark.parametrize(("goal", "code"), [(1e9, 0), (0.0, 1)])
def test_a_missed_goal_is_said_and_is_the_exit_code(tiny, capsys, monkeypatch, goal, code):
    monkeypatch.setattr(benchmark, "GOAL", goal)
    ended, printed = run(capsys)
    assert ended == code and printed.count("MISSED") == 2 * code
    for label in (*benchmark.PASSES, "guidance step", "step over its passes"):
        assert sum(line.strip().startswith(label) for line in printed.splitlines()) >= 2, label


def test_a_step_makes_the_passes_it_is_compared_with(monkeypatch):
    """Batches and whether a gradient is kept; a shared forward makes one pass less."""
    pipeline, seen = untrained_stable_diffusion(TINY), []
    forward = type(pipeline.unet).forward

    def recorded(self, x, *more, **named):
        seen.append((len(x), torch.is_grad_enabled()))
        return forward(self, x, *more, **named)

    monkeypatch.setattr(type(pipeline.unet), "forward", recorded)

    def calls(jobs):
        seen.clear()
        for job in jobs:
            job()
        return list(seen)

    passes = calls(benchmark.bare_passes(pipeline, 2, "cpu", torch.float32))
    assert passes == [(4, False), (2, False), (2, True)]
    step, shared = (
        calls([benchmark.guidance_step(untrained_stable_diffusion(TINY), 2, "cpu", torch.float32, s)])
        for s in (False, True)
    )
    assert step == passes and shared == [(4, False), (2, True)]


def test_jobs_take_turns_and_the_first_rounds_do_not_count():
    order = []
    times = interleaved([lambda: order.append("a"), lambda: order.append("b")], repeats=3)
    assert order == ["a", "b"] * 5 and [len(column) for column in times] == [3, 3]
    assert all(t >= 0 for column in times for t in column)


def test_the_byte_tokenizer_spells_every_text():
    tokenizer = byte_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids(tokenizer.unk_token)
    for text in ("a red car", "../x", "🦆 箱", "\0~"):
        ids = tokenizer(text).input_ids[1:-1]
        assert ids and unknown not in ids
