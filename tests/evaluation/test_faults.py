"""Every fault is caught by the measure that is meant for it, with judges trained on one object."""

import pytest
import torch

from evaluation import faults, measures
from evaluation import truth_distance as td
from evaluation.faults import CAUGHT, cases
from evaluation.faulty_sets import sets, two_fronts
from evaluation.measures import COLUMNS, Judges
from evaluation.pictures import Pictures, look_cameras, white
from toybox.judges.parts_training import calibrate, train_parts_judge
from toybox.judges.views import train_view_classifier
from toybox.world.incomplete import incomplete_renders
from toybox.world.renders import CameraRanges, Renders


@pytest.fixture(scope="module")
def judges():
    """Judges of yellow ducks from about the height of a look, which a minute of training tells from others."""
    cameras = CameraRanges((2.2, 2.4), (38.0, 42.0), (5.0, 25.0), high=0.0)
    ducks, parts = incomplete_renders("duck", 512, colours=("yellow",), cameras=cameras)
    cut = Renders(ducks.rgba[:384], ducks.name[:384], ducks.colour[:384], ducks.cameras[torch.arange(384)])
    rest = Renders(ducks.rgba[384:], ducks.name[384:], ducks.colour[384:], ducks.cameras[torch.arange(384, 512)])
    parts_judge = train_parts_judge(cut, parts[:384], steps=350)
    calibrate(parts_judge, rest, parts[384:])
    return Judges(parts_judge, train_view_classifier(ducks, steps=100))


@pytest.fixture(scope="module")
def ducks_with_faults(judges):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures.truth_for, "__defaults__", (16, 0))
        patch.setattr(td, "OBJECTS", {name: None for name in ("duck", "table")})
        td.scale.cache_clear()
        yield cases("duck", "yellow", "beak", judges, count=6)
        td.scale.cache_clear()


@pytest.mark.parametrize(("fault", "measure"), [(fault, m) for fault, tests in CAUGHT.items() for m in tests])
def test_a_fault_is_caught_by_its_measure(ducks_with_faults, fault, measure):
    case, sound = ducks_with_faults[fault], ducks_with_faults["none"]
    assert measure not in case.missed, (getattr(case.figures, measure), getattr(sound.figures, measure))


def test_true_instances_have_no_fault(ducks_with_faults):
    figures = ducks_with_faults["none"].figures
    assert figures.part_recall > 0.9 and figures.false_parts < 0.3 and figures.janus < 0.1
    assert figures.sharpness == pytest.approx(1, abs=0.1) and abs(figures.kid) < 3 * figures.kid_error
    assert figures.truth_score == pytest.approx(1, abs=0.3)


def test_the_l1_score_is_blind_to_blur(ducks_with_faults):
    """Why the other measures are there."""
    scores = {fault: case.figures.truth_score for fault, case in ducks_with_faults.items()}
    assert scores["blur"] > scores["none"] - 0.15 and scores["a part dropped"] > scores["none"] - 0.15


def test_faults_are_what_their_names_say():
    faulty = sets("duck", "yellow", "beak", look_cameras(8, 2.3, 40.0), 2)
    assert set(faulty) == {"none", *CAUGHT}
    changed = ((faulty["a part dropped"].rgb - faulty["none"].rgb).abs() > 0.05).any(2)
    assert changed[:, 0].flatten(1).any(1).all() and not changed[:, 4].any(), "beaks are seen in front alone"
    assert torch.equal(faulty["left and right exchanged"].rgb[:, 0].flip(-1), faulty["none"].rgb[:, 0])
    copies = faulty["one object copied"].rgb
    assert torch.equal(copies[0], copies[1]) and torch.equal(copies[0], faulty["none"].rgb[0])
    numbered = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(1, 8, 3, 2, 2)
    turned = two_fronts(Pictures(numbered, numbered[:, :, 0] > 0, white(1, 8)))
    assert turned.rgb[0, :, 0, 0, 0].tolist() == [0, 1, 2, 7, 0, 1, 6, 7]


def test_the_report_marks_what_is_meant_and_what_is_missed(ducks_with_faults):
    text = faults.as_markdown("a yellow duck", "beak", ducks_with_faults, "duck.png")
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines() if row.startswith("| ")}
    assert set(rows) == {"fault", *(f.replace("a part", "the beak") for f in ducks_with_faults)}
    assert rows["blur"].count("**") == 2 * len(CAUGHT["blur"]) and "MISSED" not in text
    assert all(measure in rows["fault"] for measure in COLUMNS)
    assert "image tower" in text.splitlines()[-1]
