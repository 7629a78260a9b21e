"""The judge of parts: its parts one by one, and a small one trained on one object."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from toybox.judges import parts_training as module
from toybox.judges.parts import PartsJudge, pixels_of_parts
from toybox.judges.parts_network import PartsNetwork
from toybox.judges.parts_training import (
    best_threshold,
    calibrate,
    disturbed,
    held_out_accuracy,
    parts_judge,
    train_parts_judge,
)
from toybox.world.builder import BODY, PARTS
from toybox.world.incomplete import incomplete_renders
from toybox.world.renders import random_backgrounds


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
        return (shown <= threshold).float().mean() + (absent > threshold).float().mean()

    best = cost(best_threshold(shown, absent))
    assert all(best <= cost(t) + 1e-6 for t in torch.linspace(0, 2, 400))
    assert best_threshold(shown[:0], absent) == float("inf")
    assert best_threshold(shown, absent[:0]) < 0.6


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
    assert features.shape == (2, 2 * sum((32, 48, 64, 96)))
    blurred = F.avg_pool2d(images, 5, 1, 2)
    assert (judge.features(blurred) - features).norm() > 0.1 * features.norm()


def test_the_cached_judge_is_the_trained_one(tmp_path, monkeypatch):
    monkeypatch.setenv("VSD_CACHE", str(tmp_path))
    first = parts_judge("mug", 16, 2)
    monkeypatch.setattr(module, "train_parts_judge", lambda *_: 1 / 0)
    again = parts_judge("mug", 16, 2)
    for a, b in zip(first.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for other in (("mug", 16, 3), ("mug", 17, 2), ("duck", 16, 2)):
        with pytest.raises(ZeroDivisionError):
            parts_judge(*other)


@pytest.fixture(scope="module")
def trees():
    return incomplete_renders("tree", 96)


def test_training_is_deterministic_and_learns(trees):
    renders, parts = trees
    a, b = (train_parts_judge(renders, parts, 3, batch_size=8) for _ in range(2))
    for x, y in zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    few, more = (train_parts_judge(renders, parts, n) for n in (2, 60))
    images = renders.images(torch.arange(96), torch.ones(96, 3))
    truth = F.max_pool2d(parts.float()[:, None], 2)[:, 0]

    def agreement(judge):
        return (judge.probabilities(images).argmax(1) == truth).float()[truth > 0].mean()

    assert agreement(more) > agreement(few) + 0.1 and agreement(more) > 0.8


def test_calibration_standardises_features_and_sets_thresholds(trees):
    judge = train_parts_judge(*trees, 120)
    calibrate(judge, *trees)
    trunk, threshold = PARTS.index("trunk"), judge.network.threshold
    assert torch.isfinite(threshold[[BODY, trunk]]).all() and threshold[PARTS.index("beak")] == float("inf")
    renders, _ = trees
    images = renders.images(torch.arange(96), random_backgrounds(96, np.random.default_rng(3)))
    features = judge.features(images)
    assert features.mean(0).abs().mean() < 0.5 and 0.5 < features.std(0).mean() < 2
    accuracy = held_out_accuracy(judge, *trees)
    assert list(accuracy) == ["trunk"] and accuracy["trunk"].recall > accuracy["trunk"].false_alarms + 0.3


def test_accuracy_counts_pictures_that_show_a_part_and_those_without():
    """A judge that finds the beak in every picture and the eyes in none."""

    class Stub(PartsJudge):
        def found(self, images):
            found = torch.zeros(len(images), len(PARTS), dtype=torch.bool)
            found[:, PARTS.index("beak")] = True
            return found

    renders, parts = incomplete_renders("duck", 32)
    accuracy = held_out_accuracy(Stub(PartsNetwork()), renders, parts)
    assert set(accuracy) == {"beak", "eyes", "wings", "tail"}
    assert accuracy["beak"].recall == accuracy["beak"].false_alarms == 1
    assert accuracy["eyes"].recall == accuracy["eyes"].false_alarms == 0
    shown = (pixels_of_parts(parts)[:, PARTS.index("eyes")] >= 4).sum()
    assert accuracy["eyes"].shown == shown > 0


def test_the_command_prints_every_part_and_refuses_other_objects(monkeypatch, capsys):
    monkeypatch.setattr(module, "parts_judge", lambda name: PartsJudge(PartsNetwork().eval()))
    monkeypatch.setattr(module, "HELD_OUT", 16)
    module.main(["duck"])
    assert [row.split()[1] for row in capsys.readouterr().out.splitlines()[1:]] == [
        *("beak", "eyes", "wings", "tail"),
        "mean",
    ]
    with pytest.raises(SystemExit):
        module.main(["spoon"])
    assert "spoon" in capsys.readouterr().err
