import torch

from toybox.world import incomplete
from toybox.world.builder import BODY, PARTS
from toybox.world.incomplete import incomplete_renders
from toybox.world.objects import COLOURS, OBJECTS


def test_incomplete_instances_lack_parts_and_nothing_else(monkeypatch):
    renders, parts = incomplete_renders("robot", 40)
    again, same = incomplete_renders("robot", 40)
    assert torch.equal(renders.rgba, again.rgba) and torch.equal(parts, same)
    monkeypatch.setattr(incomplete, "MISSING", 0.0)
    whole, all_parts = incomplete_renders("robot", 40)
    assert torch.equal(renders.cameras.azimuth, whole.cameras.azimuth)
    assert (renders.rgba[:, 3].int() <= whole.rgba[:, 3].int() + 128).all(), "nothing is added but by antialiasing"
    changed = (renders.rgba != whole.rgba).flatten(1).any(1).float().mean()
    assert 0.5 < changed <= 1
    named = [p for p in all_parts.unique().tolist() if p > BODY]
    assert len(named) > 8
    for p in named:
        shown, left = ((x == p).flatten(1).any(1) for x in (all_parts, parts))
        assert left.float().mean() < shown.float().mean() or PARTS[p] == "head"


def test_labels_are_the_objects_and_all_colours():
    renders, parts = incomplete_renders("tree", 16, held_out=True, seed=2)
    assert (renders.name == list(OBJECTS).index("tree")).all()
    assert torch.bincount(renders.colour, minlength=len(COLOURS)).tolist() == [2] * len(COLOURS)
    assert parts.shape == (16, 64, 64) and ((parts > 0) == (renders.rgba[:, 3] >= 128)).float().mean() > 0.97
    for more in ({"held_out": True}, {"seed": 2}, {"held_out": True, "seed": 3}):
        assert not torch.equal(incomplete_renders("tree", 16, **more)[0].rgba, renders.rgba)
