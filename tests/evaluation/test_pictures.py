import torch

from evaluation.pictures import (
    Pictures,
    Truth,
    captioned_instances,
    sector_instances,
    true_instances,
    white,
    with_found_masks,
)
from evaluation.truth_distance import TRUTH_SEED
from scene.cameras import turntable
from toybox.world.captions import VIEWS
from toybox.world.objects import build, stack
from toybox.world.render import render


def test_masks_and_backgrounds_are_found_by_colour():
    rgb = torch.full((2, 3, 3, 16, 16), 0.3)
    rgb[1] = 0.8
    rgb[..., 4:9, 5:11] = torch.rand(2, 3, 3, 5, 6) * 0.1 + 0.5
    rgb[0, ..., 6, 7] = 0.3  # a hole in the colour of the background
    rgb[0, ..., 14, 1] = 1.0  # a speck
    found = with_found_masks(rgb)
    assert torch.allclose(found.background[0], torch.tensor(0.3)) and torch.allclose(
        found.background[1], torch.tensor(0.8)
    )
    assert found.mask[..., 4:9, 5:11].all() and found.mask.sum() == 6 * 30
    cut = found.over_white()
    assert torch.equal(cut[..., 4:9, 5:11], rgb[..., 4:9, 5:11])
    assert not with_found_masks(torch.full((1, 1, 3, 8, 8), 0.4)).mask.any()
    assert (cut.sum((1, 2, 3, 4)) - rgb[..., 4:9, 5:11].sum((1, 2, 3, 4)) - 9 * (256 - 30)).abs().max() < 1e-2


def test_truth_is_composited_over_the_backgrounds_that_are_asked_for():
    rgba = torch.rand(5, 2, 4, 8, 8)
    rgba[:, :, :3] *= rgba[:, :, 3:]
    truth = Truth(rgba, torch.zeros(5, 2, 8, 8, dtype=torch.long), turntable(2))
    background = torch.rand(2, 2, 3)
    shown = truth.over(background)
    for i in range(5):
        for v in range(2):
            expected = rgba[i, v, :3] + (1 - rgba[i, v, 3]) * background[i % 2, v][:, None, None]
            torch.testing.assert_close(shown.rgb[i, v], expected)
    assert torch.equal(shown.mask, rgba[:, :, 3] > 0.5)


def test_true_instances_are_renders_of_the_unseen_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("VSD_CACHE", str(tmp_path))
    true_instances.cache_clear()
    truth = true_instances("mug", "green", 2, 3, 4, 2.3, 40.0, 32)
    shown = render(stack([build("mug", "green", TRUTH_SEED + 4)] * 4), turntable(4, 15.0, 2.3, 40.0), 32)
    expected = torch.cat([shown.rgb, shown.alpha], -1).permute(0, 3, 1, 2)
    assert (truth.rgba[1] - expected).abs().max() < 0.6 / 255 and torch.equal(truth.parts[1], shown.parts)
    true_instances.cache_clear()
    again = true_instances("mug", "green", 2, 3, 4, 2.3, 40.0, 32)
    assert torch.equal(truth.rgba, again.rgba) and torch.equal(truth.parts, again.parts)
    true_instances.cache_clear()


def test_sector_instances_show_one_view_word_from_many_cameras(tmp_path, monkeypatch):
    monkeypatch.setenv("VSD_CACHE", str(tmp_path))
    sector_instances.cache_clear()
    truth = sector_instances("car", "red", 2, 4, 0, 32)
    assert truth.rgba.shape == (4, 1, 4, 32, 32)
    assert VIEWS.words[int(VIEWS.index(truth.cameras.azimuth, torch.zeros(1)))] == "left side view"
    areas = truth.rgba[:, 0, 3].mean((1, 2))
    assert areas.std() > 0 and len(truth.over(white(4, 1))) == 4
    sector_instances.cache_clear()


def test_captioned_instances_put_sectors_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("VSD_CACHE", str(tmp_path))
    sector_instances.cache_clear()
    cameras = turntable(4, elevation=15.0)
    truth = captioned_instances("car", "red", cameras, 3, 5, 32)
    assert truth.rgba.shape == (3, 4, 4, 32, 32) and truth.parts.shape == (3, 4, 32, 32)
    left = sector_instances("car", "red", VIEWS.words.index("left side view"), 3, 5, 32)
    assert torch.equal(truth.rgba[:, 1:2], left.rgba) and torch.equal(truth.parts[:, 1:2], left.parts)
    sector_instances.cache_clear()


def test_some_of_the_objects_are_taken():
    set_ = Pictures(torch.rand(3, 2, 3, 4, 4), torch.ones(3, 2, 4, 4, dtype=torch.bool), white(3, 2))
    assert len(set_[1:]) == 2 and torch.equal(set_[1:].rgb, set_.rgb[1:])
    images = set_.network_images()
    assert images.shape == (6, 3, 4, 4) and torch.equal(images[3], 2 * set_.rgb[1, 1] - 1)
