import pytest
import torch
from torch import nn

from benchmarks import step_cost
from benchmarks.guidance_step import main
from benchmarks.step_cost import GIB, SWITCHES, Allocations, fused_attention, memory, meta_step, tflop
from benchmarks.untrained_sd import STABLE_DIFFUSION_2, TINY


@pytest.mark.parametrize(("name", "published"), [("plain", 6.41), ("shared forward, tiny encoder", 3.58)])
def test_operations_at_stable_diffusions_own_size(name, published):
    step, weights = meta_step(STABLE_DIFFUSION_2, torch.bfloat16, *SWITCHES[name])
    assert tflop(step) == pytest.approx(published, abs=0.005)
    assert sum(w.numel() for w in weights if w.dtype == torch.bfloat16) > 866e6


def test_operations_are_two_per_multiplication_and_addition():
    with torch.device("meta"):
        layer, x = nn.Linear(100, 200), torch.zeros(300, 100)
    assert tflop(lambda: layer(x)) == pytest.approx(2 * 100 * 200 * 300 / 1e12)


def test_memory_is_counted_until_it_is_freed():
    kib = torch.zeros(256, device="meta")
    with Allocations([kib]) as counted:
        two = [kib * 2, kib * 3]
        view = two[0].view(16, 16)
        assert (counted.now, counted.peak) == (2048, 2048)
        two.clear()
        assert counted.now == 1024, "the view holds one of them"
        del view
        kib.add_(1)
    assert (counted.now, counted.peak) == (0, 2048)


def test_the_most_of_a_step_is_that_of_its_backward():
    weight = nn.Parameter(torch.zeros(256, 256, device="meta"))
    unit = 256 * 256 * 4

    def step():
        weight.sin().exp().sum().backward()
        weight.grad = None

    held, most = memory(step, [weight])
    assert held * GIB == unit and 3 * unit < most * GIB < 5.1 * unit


def test_fused_attention_keeps_no_matrix():
    q = torch.randn(1, 2, 64, 8)
    torch.testing.assert_close(fused_attention(q, q, q), nn.functional.scaled_dot_product_attention(q, q, q))
    big = torch.zeros(1, 1, 4096, 64, device="meta", requires_grad=True)
    with Allocations([big]) as counted:
        fused_attention(big, big, big).sum().backward()
    assert counted.peak < 4096 * 4096


def test_every_switch_saves_what_it_says():
    counts, most = {}, {}
    for name in ("plain", "shared forward", "checkpointing", "all", "shared forward, tiny encoder"):
        step, weights = meta_step(TINY, torch.float32, *SWITCHES[name])
        counts[name], (_, most[name]) = tflop(step), memory(step, weights)
    assert counts["shared forward"] < counts["plain"] < counts["checkpointing"]
    assert most["checkpointing"] < most["plain"] < most["shared forward"]
    assert most["all"] < most["shared forward, tiny encoder"]


def test_slicing_keeps_the_activations_of_one_view():
    most, counts = {}, {}
    for name in ("plain", "slicing"):
        for views in (1, 4):
            step, weights = meta_step(TINY, torch.float32, *SWITCHES[name], views=views)
            counts[name, views], (_, most[name, views]) = tflop(step) / views, memory(step, weights)
    assert counts["slicing", 1] == counts["plain", 1] == counts["plain", 4] < counts["slicing", 4]
    assert most["slicing", 1] == most["plain", 1] and most["slicing", 4] < most["plain", 4]


def test_the_command_prints_the_table_and_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr(
        step_cost, "SWITCHES", {"plain": (False, False, False, False), "sliced": (False, False, False, True)}
    )
    main(["--flops"])
    printed = capsys.readouterr().out
    assert "autoencoder, backward" in printed and "| plain | " in printed and "| 1.00 |" in printed
    assert "sliced" not in printed, "of one view"
