"""What a scene looks like at its start: walls all around, with or without an object in their middle."""

import math

import pytest
import torch

from scene.cameras import Orbit
from scene.radiance_field import DenseGrid, RadianceField, initial_density
from scene.volume_rendering import VolumeRenderer

BOUND = 5.0


def start(kind):
    """A field of that start whose network adds nothing, and a renderer for which all cells are occupied."""
    field = RadianceField(DenseGrid((4,), 1), BOUND, 0, kind)
    torch.nn.init.zeros_(field.network[0].weight)
    torch.nn.init.zeros_(field.network[0].bias)
    return field, VolumeRenderer(BOUND, 32, 512)


def views(distance, size=9):
    """Cameras on a sphere that look at the middle, from above, the side and below, with wide views."""
    elevation = torch.tensor([-60.0, -10, 20, 45, 80]).repeat(6)
    count = len(elevation)
    far, wide = torch.full((count,), distance), torch.full((count,), 90.0)
    orbit = Orbit(torch.arange(count) * 137.508 % 360, elevation, far, wide)
    return orbit.cameras(size)


def expected(kind, origins, directions):
    """Opacities (R,) and depths (R,) by quadrature of the formula over rays of ten units."""
    t = (torch.arange(20_000) + 0.5) * (10 / 20_000)
    opacities, depths = [], []
    for origin, direction in zip(origins, directions, strict=True):
        points = origin + t[:, None] * direction
        inside = (points.abs() <= BOUND).all(-1)
        density = torch.log1p(torch.exp(initial_density(points, kind).double())) * inside
        optical = (density * 10 / 20_000).cumsum(0)
        weight = torch.exp(-optical) * density * 10 / 20_000
        opacities.append(weight.sum())
        depths.append((weight * t).sum() / weight.sum())
    return torch.stack(opacities).float(), torch.stack(depths).float()


@pytest.mark.parametrize(("kind", "distance"), [("scene", 0.1), ("scene", 2.0), ("object-in-scene", 1.5)])
def test_every_ray_ends_at_a_wall_or_the_object(kind, distance):
    field, renderer = start(kind)
    origins, directions = views(distance).rays()
    with torch.no_grad():
        out = renderer(field, origins, directions)
    opacity, depth = expected(kind, origins[::40], directions[::40])
    torch.testing.assert_close(out.opacity[::40, 0], opacity, atol=2e-3, rtol=0)
    torch.testing.assert_close(out.depth[::40, 0], depth, atol=5e-3, rtol=0)
    renderer.update(0, field)  # thin fog before the walls is skipped
    with torch.no_grad():
        out = renderer(field, origins, directions)
    assert out.opacity.min() > 0.999
    hit = origins + out.depth * directions
    radius = hit.norm(dim=-1)
    walls = (radius > 1.5) & (radius < 4)
    if kind == "scene":
        assert walls.all(), "hollow in the middle"
    else:
        towards = torch.linalg.cross(origins, directions).norm(dim=-1)  # by how much a ray misses the middle
        assert (radius[towards < 0.3] < 0.6).all(), "the object"
        assert walls[towards > 1.0].all() and (towards > 1.0).any() and (towards < 0.3).any()


def test_a_room_is_learned_from_renders_of_its_truth():
    """A cube in a room of plain walls: a few steps from the scene's start towards true colours."""
    torch.manual_seed(0)

    def room(origins, directions):
        """Colours (R, 3): a red cube of half side 0.4 in a room of half side 2 with walls of three colours."""

        def slab(half):
            inverse = 1 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
            one, two = (-half - origins) * inverse, (half - origins) * inverse
            return torch.minimum(one, two).amax(-1), torch.maximum(one, two)

        enter, leave = slab(0.4)
        hit = (enter < leave.amin(-1)) & (enter > 0)
        wall = slab(2.0)[1].argmin(-1)  # the axis of the wall that a ray meets
        return torch.where(hit[:, None], torch.tensor([1.0, 0, 0]), torch.eye(3)[wall] * 0.5 + 0.2)

    field = RadianceField(DenseGrid((8, 16, 32), 4), BOUND, 16, "object-in-scene")
    renderer = VolumeRenderer(BOUND, 32, 96)
    optimizer = torch.optim.Adam(field.parameters(), 0.03)
    origins, directions = views(1.5, 16).rays()
    truth = room(origins, directions)
    losses = []
    for step in range(40):
        renderer.update(step, field)
        some = torch.randint(len(origins), (600,))
        error = (renderer(field, origins[some], directions[some]).rgb - truth[some]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        losses.append(error.item())
    with torch.no_grad():
        out = renderer(field, origins, directions)
    assert math.isfinite(losses[-1]) and losses[-1] < 0.15 * losses[0]
    assert out.opacity.min() > 0.95, "no hole in the walls"
