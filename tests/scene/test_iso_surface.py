"""From a radiance field to a surface: a ball whose density is known, and fields that have no surface."""

import pytest
import torch
from torch import nn

from scene.iso_surface import (
    NoSurface,
    field_mask,
    from_field,
    intersection_over_union,
    judging_cameras,
    mesh_mask,
    occupied_box,
    probe,
)
from scene.volume_rendering import VolumeRenderer

CAMERAS = judging_cameras(2.5, 40.0)


class Ball(nn.Module):
    """Density 200 exp(-(|x - centre| - 0.4) / 0.05): 200 at the radius 0.4, 10 at 0.55; hollow inside `hollow`."""

    def __init__(self, centre=(0.1, -0.2, 0.0), factor=1.0, hollow=0.0):
        super().__init__()
        self.centre, self.factor, self.hollow = nn.Parameter(torch.tensor(centre)), factor, hollow

    def density(self, points):
        distance = (points - self.centre).norm(dim=-1)
        value = self.factor * (200 * torch.exp(-(distance - 0.4) / 0.05)).clamp(max=1e4)
        return torch.where(distance < self.hollow, 0.0, value)

    def forward(self, points):
        return self.density(points), points.new_zeros(len(points), 3)


class Everywhere(Ball):
    def density(self, points):
        return torch.full_like(points[:, 0], 100.0)


def renderer():
    return VolumeRenderer(samples=128)


def test_the_surface_lies_where_the_silhouettes_are():
    field = Ball()
    start = from_field(field, renderer(), 24, CAMERAS, 48)
    # Opacity one half: a ray that passes at r sees 200 exp(-(r - 0.4) / 0.05) sqrt(2 pi 0.05 r) = ln 2, so r = 0.645,
    # where the density is 1.5.
    mesh = start.surface.extract()
    radius = (mesh.vertices - field.centre).norm(dim=-1)
    assert start.iou > 0.97 and mesh.is_watertight and mesh.components()[0] == 1 and mesh.volume() > 0
    assert radius.std() < 0.01 and radius.mean().item() == pytest.approx(0.645, abs=0.01)
    assert start.threshold == 1.6


def test_a_given_threshold_is_a_level_set_of_the_density():
    field = Ball()
    start = from_field(field, renderer(), 24, CAMERAS, 32, thresholds=(10.0,))
    radius = (start.surface.extract().vertices - field.centre).norm(dim=-1)
    assert radius.mean().item() == pytest.approx(0.4 + 0.05 * torch.log(torch.tensor(20.0)).item(), abs=0.003)


def test_a_hollow_ball_becomes_a_full_one():
    full, hollow = (from_field(Ball(hollow=h), renderer(), 20, CAMERAS, 32, (10.0,)).surface for h in (0.0, 0.3))
    assert hollow.extract().components()[0] == 1
    assert hollow.extract().volume().item() == pytest.approx(full.extract().volume().item(), rel=1e-3)


def test_the_box_fits_the_object_and_stays_inside_the_cube():
    low, high = occupied_box(probe(Ball(), 1.0), 1.0, 10.0)
    middle, extent = (low + high) / 2, high - low
    assert torch.allclose(middle, torch.tensor([0.1, -0.2, 0.0]), atol=0.05)
    assert (extent > 1.1).all() and (extent < 1.45).all()
    low, high = occupied_box(probe(Ball(centre=(0.9, 0.0, 0.0)), 1.0), 1.0, 10.0)
    assert high[0] == 1 and low.min() >= -1


@pytest.mark.parametrize(
    ("field", "reason"), [(Ball(factor=0.0), "no camera sees it"), (Everywhere(), "all over the border of its cube")]
)
def test_a_field_without_a_surface_says_why(field, reason):
    with pytest.raises(NoSurface, match=reason):
        from_field(field, renderer(), 12, CAMERAS, 24)


def test_masks_agree_between_a_field_and_its_surface():
    field, volume = Ball(), renderer()
    start = from_field(field, volume, 24, CAMERAS, 48)
    one, two = field_mask(field, volume, CAMERAS, 48), mesh_mask(start.surface.extract(), CAMERAS, 48)
    assert intersection_over_union(one, two) == pytest.approx(start.iou)
    assert one.shape == two.shape == (12, 48, 48)


def test_iou_of_known_masks():
    a, b = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([0, 1, 1, 0]).bool()
    assert intersection_over_union(a, b) == pytest.approx(1 / 3)
    assert intersection_over_union(~a & a, b & ~b) == 1
