from collections import Counter

import pytest
import torch

from scene.cameras import Orbit, turntable
from toybox.world.builder import BODY, NOTHING, PARTS
from toybox.world.objects import COLOURS, OBJECTS, WITH_FRONT, build, stack, without
from toybox.world.render import render
from toybox.world.shapes import Solids


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
        out = view(stack([build("tree", colour, s) for s in seeds]), 0)
        return out.rgb.sum((0, 1, 2)) / out.alpha.sum()

    known = torch.stack([mean(c, range(8)) for c in COLOURS])
    for i, colour in enumerate(COLOURS):
        assert (known - mean(colour, range(20, 24))).norm(dim=1).argmin() == i


def test_a_turntable_of_every_object_differs_between_objects():
    pictures = [render(stack([build(n, "red", 0)] * 4), turntable(4)).rgb for n in OBJECTS]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert (a - b).abs().mean() > 0.01


# Sums of rgb, alpha, |normal| and depth of eight instances on a turn, measured before the world knew parts.
SUMS = {
    "car": (8552.652, 8517.556, 9389.067, 16994.65),
    "duck": (4982.275, 6347.222, 9299.71, 13271.756),
    "chair": (9801.104, 7854.0, 8253.385, 17027.848),
    "mug": (12271.225, 8709.222, 11081.062, 17668.793),
    "house": (11792.49, 12660.0, 14688.604, 25684.57),
    "robot": (8177.27, 7337.889, 7852.772, 15799.92),
    "mushroom": (14832.029, 8078.667, 11791.078, 16023.421),
    "snowman": (13642.519, 7124.222, 10442.435, 15280.573),
    "tree": (6482.428, 7009.556, 11238.241, 14946.4),
    "rocket": (5471.609, 5583.667, 7075.486, 12321.952),
    "table": (8072.833, 7142.222, 7142.222, 14574.125),
    "ice cream": (7444.352, 5674.889, 8366.062, 11871.793),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_pictures_are_what_they_were_before_the_world_knew_parts(name):
    colour = list(COLOURS)[list(OBJECTS).index(name) % 8]
    out = render(stack([build(name, colour, s) for s in range(8)]), turntable(8, distance=2.3))
    sums = [float(x.double().sum()) for x in (out.rgb, out.alpha, out.normal.abs(), out.depth)]
    assert sums == pytest.approx(SUMS[name], rel=2e-5)


@pytest.mark.parametrize("name", OBJECTS)
def test_part_maps_are_those_of_the_nearest_primitive_at_the_pixel_centre(name):
    """A solid whose primitives have their part as colour, without light, shows the part where it is not antialiased."""
    solids = stack([build(name, "green", s) for s in range(2)])
    cameras = turntable(2, distance=2.3, start=30.0)
    out = render(solids, cameras)
    assert set(out.parts.unique().tolist()) <= {NOTHING, *solids.parts}
    inside, outside = out.alpha[..., 0] > 1 - 1e-6, out.alpha[..., 0] == 0
    assert (out.parts[inside] != NOTHING).all() and (out.parts[outside] == NOTHING).all()
    solids.colours[:] = torch.tensor(solids.parts)[:, None] / len(PARTS)
    flat = render(solids, cameras)
    shade = flat.rgb.amax(-1) / (flat.parts / len(PARTS)).clamp(min=1e-6)  # the light, where a pixel is of one part
    clear = torch.nn.functional.max_pool2d((flat.parts[:, None]).float(), 3, 1, 1)[:, 0] == flat.parts
    clear &= -torch.nn.functional.max_pool2d(-flat.parts[:, None].float(), 3, 1, 1)[:, 0] == flat.parts
    assert clear.sum() > 200
    lit = shade[clear & (flat.parts != NOTHING)]
    right = (lit > 0.44) & (lit < 1.01)
    assert right.float().mean() > 0.995, "only a part thinner than a pixel may slip between two centres"


def test_faces_and_fronts_have_their_parts():
    names = {name: Counter(PARTS[p] for p in build(name, "red", 0).parts) for name in OBJECTS}
    assert names["duck"]["eyes"] == 2 and names["duck"]["beak"] == 1
    assert names["snowman"] == {"body": 3, "nose": 1, "eyes": 2, "buttons": 2, "hat": 2}
    assert names["car"]["wheels"] == names["car"]["hubs"] == 4 and names["car"]["lamps"] == 2
    assert names["house"]["door"] == 1 and names["house"]["windows"] == 7
    assert names["mushroom"]["dots"] == 9
    assert all(counts["body"] > 0 for name, counts in names.items() if name not in ("chair", "table"))


def test_a_part_hides_from_the_other_side():
    solids = stack([build("duck", "yellow", s) for s in range(4)])
    beak = PARTS.index("beak")
    assert ((view(solids, 0).parts == beak).sum((1, 2)) > 10).all()
    assert not (view(solids, 180).parts == beak).any()
    assert (view(solids, 180).parts == BODY).any()


def test_an_instance_without_a_part_is_the_rest_of_it():
    """Reference: the same instance built from the other primitives alone."""
    whole = stack([build("robot", "red", s) for s in range(3)])
    for part in ("eyes", "panel", "backpack", "antenna"):
        kept = [i for i, p in enumerate(whole.parts) if PARTS[p] != part]
        rest = Solids(
            tuple(whole.kinds[i] for i in kept),
            whole.to_local[:, kept],
            whole.taper[:, kept],
            whole.colours[:, kept],
            tuple(whole.parts[i] for i in kept),
        )
        missing = (torch.arange(len(PARTS)) == PARTS.index(part)).expand(3, -1)
        for azimuth in (0, 50, 180):
            one, two = view(without(whole, missing), azimuth), view(rest, azimuth)
            assert torch.equal(one.parts, two.parts)
            assert (one.rgb - two.rgb).abs().mean() < 1e-5
