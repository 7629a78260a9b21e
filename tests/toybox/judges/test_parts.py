"""The judge of parts: its parts one by one, and a small one trained on one object."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from toybox.judges import parts as module
from toybox.judges.parts import (
    FALSE_COST,
    PartsJudge,
    best_threshold,
    disturbed,
    held_out_accuracy,
    parts_judge,
    pixels_of_parts,
    train_parts_judge,
)
from toybox.judges.parts_network import PartsNetwork
from toybox.world.builder import BODY, PARTS
from toybox.world.renders import load_incomplete


def test_pixels_are_counted_as_a_loop_counts_them():
    maps = torch.randint(0, len(PARTS), (2, 3, 5, 7))
    counts = pixels_of_parts(maps)
    assert counts.shape == (2, 3, len(PARTS)) and (counts.sum(-1) == 35).all()
    for p in range(len(PARTS)):
        assert torch.equal(counts[..., p], (maps == p).sum((2, 3)))


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_costs_no_more_than_any_other(seed):
    draw = torch.Generator().manual_seed(seed)
    shown, absent = torch.rand(40, generator=draw) + 0.5, torch.rand(300, generator=draw)

    def cost(threshold):
        return (shown <= threshold).float().mean() + FALSE_COST * (absent > threshold).float().mean()

    best = cost(best_threshold(shown, absent))
    assert all(best <= cost(t) + 1e-6 for t in torch.linspace(0, 2, 400))
    assert best_threshold(shown[:0], absent) == float("inf") and best_threshold(shown, absent[:0]) == 0


def test_disturbances_are_small_and_leave_plain_pictures_plain():
    images = torch.rand(64, 3, 16, 16) * 2 - 1
    for seed in (0, 1):
        out = disturbed(images, np.random.default_rng(seed))
        assert torch.equal(out, disturbed(images, np.random.default_rng(seed)))
        assert 0.02 < (out - images).abs().mean() < 0.5
    plain = torch.full((64, 3, 16, 16), 0.5)
    assert (disturbed(plain, np.random.default_rng(0)) - plain).abs().mean() < 0.12


def test_evidence_is_the_sum_of_squared_probabilities_over_pixels():
    network = PartsNetwork().eval()
    judge, images = PartsJudge(network), torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        p = F.interpolate(network(images).softmax(1), scale_factor=2)  # every pixel has its cell's
    torch.testing.assert_close(judge.evidence(images), p.square().sum((2, 3)))
    network.threshold.fill_(float("inf"))
    assert not judge.found(images).any()


def test_features_see_no_mirror_but_every_blur():
    judge = PartsJudge(PartsNetwork().eval())
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    features = judge.features(images)
    assert features.shape == (2, 2 * sum((24, 48, 96, 128)))
    blurred = F.avg_pool2d(images, 5, 1, 2)
    assert (judge.features(blurred) - features).norm() > 0.1 * features.norm()


def test_the_cached_judge_is_the_trained_one(tmp_path, monkeypatch):
    monkeypatch.setenv("VSD_CACHE", str(tmp_path))
    load_incomplete(96, workers=1)
    first = parts_judge(96, 2)
    monkeypatch.setattr(module, "train_parts_judge", lambda *_: 1 / 0)
    again = parts_judge(96, 2)
    for a, b in zip(first.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ZeroDivisionError):
        parts_judge(96, 3)  # another judge


def test_training_is_deterministic_and_learns(tmp_path):
    renders, parts = load_incomplete(192, cache=tmp_path, workers=1)
    a, b = (train_parts_judge(renders, parts, 3, batch_size=8) for _ in range(2))
    for x, y in zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    few, more = (train_parts_judge(renders, parts, n, batch_size=16) for n in (2, 60))
    images = renders.images(torch.arange(192), torch.ones(192, 3))
    truth = F.max_pool2d(parts.float()[:, None], 2)[:, 0]

    def agreement(judge):
        return (judge.probabilities(images).argmax(1) == truth).float()[truth > 0].mean()

    assert agreement(more) > agreement(few) + 0.1


def test_accuracy_counts_pictures_that_show_a_part_and_those_without(monkeypatch):
    """A judge that finds the beak in every picture and the eyes in none."""

    class Stub(PartsJudge):
        def found(self, images):
            found = torch.zeros(len(images), len(PARTS), dtype=torch.bool)
            found[:, PARTS.index("beak")] = True
            return found

    renders, parts = load_incomplete(96, workers=1)
    accuracy = held_out_accuracy(Stub(PartsNetwork()), renders, parts)
    assert list(accuracy) == list(PARTS[BODY + 1 :])
    assert accuracy["beak"].recall == accuracy["beak"].false_alarms == 1
    assert accuracy["eyes"].recall == accuracy["eyes"].false_alarms == 0
    shown = (pixels_of_parts(parts)[:, PARTS.index("eyes")] >= 4).sum()
    assert accuracy["eyes"].shown == shown > 0
