"""One call for a step's three forwards: it gives what two calls give, and what it costs besides time."""

import pytest
import torch
from stand_in import StandIn

from benchmarks import one_call as benchmark
from benchmarks.one_call import Forwards, random_phi
from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from vsd.embeddings import embed
from vsd.prior import DiffusionPrior


def forwards(device):
    pipeline = untrained_stable_diffusion(TINY)
    embed(DiffusionPrior(pipeline), benchmark.PROMPTS)  # into the cache: the stand-in has no values
    prior = DiffusionPrior(pipeline, device)
    return Forwards(prior, random_phi(prior), 2)


def test_a_name_per_sample_gives_what_two_calls_give():
    ours = forwards("cpu")
    two = ours.two_calls()
    torch.testing.assert_close(ours.one_call(), two)
    assert not torch.allclose(two[0], two[1]) and not torch.allclose(two[1], two[2])
    torch.testing.assert_close(ours.two_calls(), two, rtol=0, atol=0)  # nothing is left of it


def test_peft_waits_for_the_device_in_every_layer():
    with StandIn() as device:
        ours = forwards("meta")
        with device.watch() as none:
            ours.two_calls()
        with device.watch() as waits:
            ours.one_call()
    assert none == [] and len(waits) == 3 * len(ours.phi._layers)  # reads x and the result, writes the result


def test_the_command_prints_both_times_and_their_ratio(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "untrained_stable_diffusion", lambda _: untrained_stable_diffusion(TINY))
    benchmark.main(["--batch", "1", "2", "--repeats", "2", "--threads", str(torch.get_num_threads())])
    printed = capsys.readouterr().out
    ratios = [float(line.split()[3]) for line in printed.splitlines() if "one over two" in line]
    assert len(ratios) == 2 and ratios == pytest.approx([1, 1], abs=0.9)
