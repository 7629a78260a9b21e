"""The part-recall gate of a prior: what it compares, and how it ends."""

import pytest

from evaluation import prior_parts
from evaluation.pictures import INSTANCES, captioned_instances, look_cameras, white
from evaluation.runs import DISTANCE, FOVY
from toybox.judges.parts import pixels_of_parts


class TruthfulJudge:
    """Finds the parts that the object of a picture has, which it knows, and none in a blank picture."""

    def __init__(self, truth):
        self.parts = (pixels_of_parts(truth.parts) > 0).flatten(0, 1)  # (N V, P)

    def found(self, images):
        return self.parts[: len(images)] & (images != 1).flatten(1).any(1)[:, None]


@pytest.mark.parametrize(("blank", "expected"), [(False, 1.0), (True, 0.0)])
def test_samples_are_held_against_other_true_instances_of_the_same_captions(monkeypatch, blank, expected):
    cameras = look_cameras(8, DISTANCE, FOVY)
    truth = captioned_instances("house", "red", cameras, 2, INSTANCES)
    monkeypatch.setattr(prior_parts, "COUNT", 2)
    monkeypatch.setattr(prior_parts, "parts_judge", lambda name: TruthfulJudge(truth))
    samples = truth.over(white(2, 8))
    if blank:
        samples.rgb.fill_(1.0)
    monkeypatch.setattr(prior_parts, "prior_samples", lambda *_: samples)
    of_samples, of_truth = prior_parts.recalls("house", "red", "toybox")
    assert of_truth > 0.9 and of_samples == pytest.approx(expected * of_truth)


def test_a_part_that_cameras_from_above_do_not_see_is_no_fault_of_the_samples(monkeypatch):
    cameras = look_cameras(8, DISTANCE, FOVY)
    truth = captioned_instances("tree", "red", cameras, 16, INSTANCES)
    monkeypatch.setattr(prior_parts, "parts_judge", lambda name: TruthfulJudge(truth))
    monkeypatch.setattr(prior_parts, "prior_samples", lambda *_: truth.over(white(16, 8)))
    of_samples, of_truth = prior_parts.recalls("tree", "red", "toybox")
    assert of_samples == of_truth and 0.3 < of_truth < 0.9  # the trunk, which all show from 15 degrees


@pytest.mark.parametrize(("of_samples", "code"), [(0.89, 1), (0.91, 0)])
def test_an_object_that_falls_short_ends_the_command_with_1(monkeypatch, capsys, of_samples, code):
    monkeypatch.setattr(prior_parts, "recalls", lambda name, *_: (None, None) if name == "tree" else (of_samples, 1.0))
    with pytest.raises(SystemExit) as ended:
        prior_parts.main(["duck", "tree"])
    printed = capsys.readouterr().out
    assert ended.value.code == code and ("SHORT" in printed) == bool(code) and "no named parts" in printed


def test_an_unknown_object_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        prior_parts.main(["dragon"])
    assert ended.value.code == 2 and "unknown object 'dragon'" in capsys.readouterr().err
