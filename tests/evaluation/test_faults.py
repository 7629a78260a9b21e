"""Every fault is caught by the measure that is meant for it, with judges trained on one object."""

import numpy as np
import pytest
import torch

from evaluation import faults, measures
from evaluation import truth_distance as td
from evaluation.faults import CAUGHT, cases, sets, two_fronts
from evaluation.measures import COLUMNS, Judges
from evaluation.pictures import Pictures, look_cameras, white
from toybox.judges.parts import train_parts_judge
from toybox.judges.views import train_view_classifier
from toybox.world.builder import BODY, PARTS
from toybox.world.objects import COLOURS, OBJECTS, build, stack, without
from toybox.world.render import render
from toybox.world.renders import CameraRanges, Renders

COUNT = 480  # renders of the object


@pytest.fixture(scope="module")
def ducks():
    """Renders of yellow ducks that lack random parts, and their part maps."""
    cameras = CameraRanges(elevation=(5.0, 25.0), high=0.0).sample(COUNT, np.random.default_rng(0))
    rows = torch.arange(COUNT).split(32)
    missing = torch.rand(COUNT, len(PARTS), generator=torch.Generator().manual_seed(0)) < 0.3
    missing[:, : BODY + 1] = False
    solids = [without(stack([build("duck", "yellow", int(i)) for i in index]), missing[index]) for index in rows]
    made = [render(one, cameras[index]) for one, index in zip(solids, rows, strict=True)]
    rgba = torch.cat([torch.cat([m.rgb, m.alpha], -1) for m in made]).permute(0, 3, 1, 2)
    name, colour = list(OBJECTS).index("duck"), list(COLOURS).index("yellow")
    renders = Renders((255 * rgba).round().byte(), torch.full((COUNT,), name), torch.full((COUNT,), colour), cameras)
    return renders, torch.cat([m.parts for m in made]).byte()


@pytest.fixture(scope="module")
def judges(ducks):
    return Judges(train_parts_judge(*ducks, steps=180), train_view_classifier(ducks[0], steps=80))


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
    made = sets("duck", "yellow", "beak", look_cameras(8, 2.3, 40.0), 2)
    assert set(made) == {"none", *CAUGHT}
    changed = (made["a part dropped"].rgb != made["none"].rgb).any(2)
    assert changed[:, 0].flatten(1).any(1).all() and not changed[:, 4].any(), "beaks are seen in front alone"
    assert torch.equal(made["left and right exchanged"].rgb[:, 0].flip(-1), made["none"].rgb[:, 0])
    copies = made["one object copied"].rgb
    assert torch.equal(copies[0], copies[1]) and torch.equal(copies[0], made["none"].rgb[0])
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
