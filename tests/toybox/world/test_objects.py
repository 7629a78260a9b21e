import pytest
import torch

from scene.cameras import Orbit, turntable
from toybox.world.objects import COLOURS, OBJECTS, WITH_FRONT, build, stack
from toybox.world.render import render


def view(solids, azimuth, elevation=20.0):
    n = len(solids)
    return render(solids, Orbit(*(torch.full((n,), float(v)) for v in (azimuth, elevation, 2.3, 40))))


@pytest.mark.parametrize("name", OBJECTS)
def test_an_instance_is_a_function_of_its_name_colour_and_seed(name):
    a, b, other = (build(name, "red", s) for s in (7, 7, 8))
    for x, y in ((a.to_local, b.to_local), (a.colours, b.colours), (a.taper, b.taper)):
        assert torch.equal(x, y)
    assert a.kinds == b.kinds == other.kinds
    assert not torch.equal(a.to_local, other.to_local), "seeds must vary the proportions"
    assert not torch.equal(a.colours, other.colours), "seeds must vary the hue"


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_mirror_symmetric_about_their_front_axis(name):
    solids = stack([build(name, "blue", s) for s in range(3)])
    left, right = view(solids, 65), view(solids, -65)
    for a, b in ((left.rgb, right.rgb), (left.alpha, right.alpha), (left.depth, right.depth)):
        off = (a - b.flip(2)).abs()
        assert off.mean() < 1e-4, "rounding may tip a sample at an edge, no more"


@pytest.mark.parametrize("name", WITH_FRONT)
def test_the_front_looks_unlike_the_back(name):
    solids = stack([build(name, "yellow", s) for s in range(4)])
    white = torch.ones(3)
    front, back = view(solids, 0).over(white), view(solids, 180).over(white)
    across = (front - back).abs().mean()
    among = (front - front.roll(1, 0)).abs().mean()
    assert across > 0.25 * among + 0.005


def test_colours_are_told_apart_by_the_main_part():
    """The mean colour of a tree (mostly main part) is nearest to the same colour's mean over other instances."""

    def mean(colour, seeds):
        made = view(stack([build("tree", colour, s) for s in seeds]), 0)
        return made.rgb.sum((0, 1, 2)) / made.alpha.sum()

    known = torch.stack([mean(c, range(8)) for c in COLOURS])
    for i, colour in enumerate(COLOURS):
        assert (known - mean(colour, range(20, 24))).norm(dim=1).argmin() == i


def test_a_turntable_of_every_object_differs_between_objects():
    pictures = [render(stack([build(n, "red", 0)] * 4), turntable(4)).rgb for n in OBJECTS]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert (a - b).abs().mean() > 0.01
