"""The measures as functions of pictures: closed forms and invariants."""

import math

import pytest
import torch

from evaluation.diversity import coverage, diversity, mean_pairwise_distance
from evaluation.kid import kernel, kid
from evaluation.parts import Shown, false_parts, janus_rate, part_recall, shown_by
from evaluation.patches import patch_distance, patches, projections, pyramid, sliced_wasserstein
from evaluation.pictures import Pictures, Truth, white
from evaluation.sharpness import gradient_magnitude, sharpness_ratio
from scene.cameras import turntable
from toybox.world.builder import BODY, PARTS


def picture_set(rgb, mask=None):
    """N objects in V views; all pixels belong to the object unless a mask says otherwise."""
    n, v, _, s, _ = rgb.shape
    mask = torch.ones(n, v, s, s, dtype=torch.bool) if mask is None else mask
    return Pictures(rgb, mask, white(n, v))


# parts


def parts_of(*names):
    return [PARTS.index(name) for name in names]


def test_expected_are_parts_of_most_instances_and_absent_those_of_none():
    beak, eyes, tail = parts_of("beak", "eyes", "tail")
    parts = torch.full((4, 2, 8, 8), BODY)
    parts[:, 0, 0, :4] = beak  # four pixels in all
    parts[:2, 0, 1, :6] = eyes  # in half of them
    parts[:, 1, 0, :3] = tail  # three pixels are too few
    shown = shown_by(Truth(torch.zeros(4, 2, 4, 8, 8), parts, turntable(2)))
    assert shown.expected.nonzero().tolist() == [[0, beak]]
    assert not shown.absent[0, eyes] and shown.absent[1, eyes] and shown.absent[1, beak] and not shown.absent[1, tail]
    assert not shown.absent[:, : BODY + 1].any(), "the body is no part that could be false"


def test_recall_false_parts_and_janus_count_by_hand():
    beak, eyes, tail = parts_of("beak", "eyes", "tail")
    expected, absent = torch.zeros(4, len(PARTS), dtype=torch.bool), torch.ones(4, len(PARTS), dtype=torch.bool)
    absent[:, : BODY + 1] = False
    expected[0, [beak, eyes]] = expected[1, beak] = expected[2, tail] = True
    absent[0, [beak, eyes]] = absent[1, beak] = absent[2:, tail] = False
    shown = Shown(expected, absent)
    found = torch.zeros(2, 4, len(PARTS), dtype=torch.bool)
    assert part_recall(found, shown) == 0 and false_parts(found, shown) == 0 and janus_rate(found, shown) == 0
    found[0, 0, [beak, eyes]] = found[1, 2, tail] = True
    assert part_recall(found, shown) == pytest.approx(3 / 8)
    # Wrong views: 1, where the eyes are absent, 2 and 3.
    found[0, 3, beak] = found[0, 3, eyes] = found[1, 1, eyes] = True
    assert false_parts(found, shown) == pytest.approx(3 / 8)
    assert janus_rate(found, shown) == pytest.approx(2 / 6)
    found[1, 2, PARTS.index("wheels")] = True
    assert janus_rate(found, shown) == pytest.approx(2 / 6), "wheels are no part of the front"
    assert false_parts(found, shown) == pytest.approx(4 / 8)


def test_without_parts_there_is_no_recall_and_without_a_face_no_janus():
    none = torch.zeros(2, len(PARTS), dtype=torch.bool)
    everywhere = none.clone()
    everywhere[:, PARTS.index("dots")] = True
    found = torch.ones(1, 2, len(PARTS), dtype=torch.bool)
    assert part_recall(found, Shown(none, ~none)) is None
    assert janus_rate(found, Shown(everywhere, ~everywhere)) is None


# sharpness


def test_the_gradient_of_a_ramp_is_its_slope():
    ramp = torch.arange(16.0).expand(16, 16) * 0.02
    rgb = (ramp + 2 * ramp.T).expand(1, 1, 3, 16, 16)
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 3:12, 3:12] = True
    assert float(gradient_magnitude(picture_set(rgb, mask))) == pytest.approx(0.02 * math.sqrt(5), rel=1e-4)


def test_a_soft_edge_is_less_sharp_than_a_hard_one_of_the_same_height():
    """Closed form: a step over k pixels has k gradients of 1 / k, whose root mean square falls with sqrt(k)."""

    def edge(k):
        line = ((torch.arange(32.0) - 12) / k).clamp(0, 1)
        return picture_set(line.expand(1, 1, 3, 32, 32))

    assert sharpness_ratio(edge(4), edge(1)) == pytest.approx(0.5, rel=1e-4)


def test_sharpness_is_one_for_itself_and_ignores_outline_and_background():
    rgb = torch.rand(2, 3, 3, 16, 16)
    mask = torch.zeros(2, 3, 16, 16, dtype=torch.bool)
    mask[..., 4:12, 4:12] = True
    truth = picture_set(rgb, mask)
    assert sharpness_ratio(truth, truth) == pytest.approx(1)
    moved = torch.where(mask[:, :, None], rgb, 0.0)
    assert sharpness_ratio(picture_set(moved, mask), truth) == pytest.approx(1)
    assert sharpness_ratio(picture_set(0.5 * rgb, mask), truth) == pytest.approx(0.5)


# patches


def test_the_pyramid_adds_up_to_the_image():
    images = torch.rand(2, 3, 32, 32)
    first, second, rest = pyramid(images)
    up = torch.nn.functional.interpolate(rest, scale_factor=2, mode="bilinear") + second
    torch.testing.assert_close(torch.nn.functional.interpolate(up, scale_factor=2, mode="bilinear") + first, images)
    plain = pyramid(torch.full((1, 3, 32, 32), 0.7))
    assert plain[0].abs().max() < 1e-6 and plain[1].abs().max() < 1e-6


def test_patches_are_windows_around_pixels_of_the_object():
    level = torch.rand(2, 3, 12, 12)
    mask = torch.zeros(2, 12, 12, dtype=torch.bool)
    mask[1, 5, 6] = mask[0, 0, 11] = True
    drawn = patches(level, mask, torch.Generator().manual_seed(0), 20)
    padded = torch.nn.functional.pad(level, (3, 3, 3, 3), mode="replicate")
    windows = (padded[1, :, 5:12, 6:13], padded[0, :, 0:7, 11:18])
    which = [[torch.equal(p, w) for w in windows] for p in drawn]
    assert all(sum(row) == 1 for row in which) and 0 < sum(row[0] for row in which) < 20


def test_wasserstein_of_a_shift_is_its_length_along_each_direction():
    points = torch.randn(500, 6)
    directions = torch.nn.functional.normalize(torch.randn(6, 4000), dim=0)
    here = projections(points, directions)
    assert sliced_wasserstein(here, projections(points[torch.randperm(500)], directions)) < 1e-6
    shifted = projections(points + torch.tensor([3.0, 0, 0, 0, 0, 0]), directions)
    # The mean of |u_1| over the unit sphere in six dimensions.
    expected = 3 * math.gamma(3) / (math.sqrt(math.pi) * math.gamma(3.5))
    assert sliced_wasserstein(here, shifted) == pytest.approx(expected, rel=0.03)


def test_patch_distance_rises_with_blur_and_with_noise_and_not_with_the_number_of_objects():
    draw = torch.Generator().manual_seed(1)
    texture = torch.nn.functional.avg_pool2d(torch.rand(24, 3, 34, 34, generator=draw), 3, 1)
    truth, mine = (picture_set(x.unflatten(0, (-1, 4))) for x in (texture[:16], texture[16:]))
    sound = patch_distance(mine, truth)
    blurred = torch.nn.functional.avg_pool2d(mine.rgb.flatten(0, 1), 5, 1, 2).view(mine.rgb.shape)
    noisy = mine.rgb + 0.1 * torch.randn(mine.rgb.shape, generator=draw)
    assert patch_distance(picture_set(blurred), truth) > 2 * sound
    assert patch_distance(picture_set(noisy), truth) > 2 * sound
    twice = patch_distance(picture_set(mine.rgb.repeat(2, 1, 1, 1, 1)), truth)
    assert twice == pytest.approx(sound, rel=0.1)
    empty = picture_set(mine.rgb, torch.zeros(2, 4, 32, 32, dtype=torch.bool))
    assert patch_distance(empty, truth) is None


# KID


def naive_kid(a, b):
    """Loops over pairs of different objects and all pairs of their views."""

    def between(x, y):
        return sum(kernel(u[None], v[None]).item() for u in x for v in y) / (len(x) * len(y))

    n, m = len(a), len(b)
    xx = sum(between(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(between(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(between(x, y) for x in a for y in b) / (n * m)


def test_kid_and_its_error_are_those_of_loops():
    a, b = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64) + 0.5
    estimate = kid(a, b)
    assert estimate.value == pytest.approx(naive_kid(a, b))
    variance = 0.0
    for x, which in ((a, 0), (b, 1)):
        rest = [torch.cat([x[:i], x[i + 1 :]]) for i in range(len(x))]
        left = torch.tensor([naive_kid(r, b) if which == 0 else naive_kid(a, r) for r in rest])
        variance += (len(x) - 1) * left.var(correction=0).item()
    assert estimate.error == pytest.approx(math.sqrt(variance), rel=1e-5)


def correlated(count, draw, shift=0.0, views=4):
    """Features of objects whose views have much in common, and differ from each other in the same way for all."""
    own = torch.randn(count, 1, 8, generator=draw)
    return own + 0.3 * torch.randn(count, views, 8, generator=draw) + torch.arange(views)[:, None] * 0.5 + shift


def test_kid_is_unbiased_whatever_the_views_have_in_common_and_its_error_is_the_spread():
    draw = torch.Generator().manual_seed(0)
    estimates = [kid(correlated(8, draw), correlated(20, draw)) for _ in range(300)]
    values = torch.tensor([e.value for e in estimates])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(300)
    error = torch.tensor([e.error for e in estimates]).mean()
    assert 0.8 * values.std() < error < 1.8 * values.std(), "between equal distributions it may be on the safe side"


def test_the_error_of_kid_between_different_distributions_is_its_spread():
    draw = torch.Generator().manual_seed(0)
    estimates = [kid(correlated(10, draw, shift=1.0), correlated(20, draw)) for _ in range(200)]
    values = torch.tensor([e.value for e in estimates])
    assert torch.tensor([e.error for e in estimates]).mean().item() == pytest.approx(values.std().item(), rel=0.35)
    assert values.mean() > 2 * values.std()


def test_one_object_is_compared_by_pairs_of_different_views():
    a, b = torch.randn(1, 4, 3, dtype=torch.float64), torch.randn(5, 4, 3, dtype=torch.float64)
    pairs = [(v, w) for v in range(4) for w in range(4) if v != w]
    others = [(i, j) for i in range(5) for j in range(5) if i != j]

    def k(x, y):
        return kernel(x[None], y[None]).item()

    within_a = sum(k(a[0, v], a[0, w]) for v, w in pairs) / 12
    within_b = sum(k(b[i, v], b[j, w]) for v, w in pairs for i, j in others) / (12 * 20)
    between = sum(k(a[0, v], b[j, w]) for v, w in pairs for j in range(5)) / (12 * 5)
    assert kid(a, b).value == pytest.approx(within_a + within_b - 2 * between)
    assert kid(a, b).error > 0 and kid(a[:, :2], b[:, :2]) is None


# diversity


def test_pairwise_distance_is_that_of_loops():
    rgb = torch.rand(4, 2, 3, 32, 32)
    pooled = torch.nn.functional.avg_pool2d(rgb.flatten(0, 1), 2).view(4, 2, 3, 16, 16)
    pairs = [(pooled[i] - pooled[j]).abs().mean() for i in range(4) for j in range(i)]
    assert mean_pairwise_distance(picture_set(rgb)) == pytest.approx(float(sum(pairs)) / 6, rel=1e-5)


def test_copies_have_no_diversity_the_truth_has_one_and_backgrounds_do_not_count():
    rgb = torch.rand(5, 2, 3, 32, 32)
    mask = torch.zeros(5, 2, 32, 32, dtype=torch.bool)
    for i in range(5):
        mask[i, :, 8 : 14 + i, 8 : 18 + 2 * i] = True
    truth = picture_set(rgb, mask)
    assert diversity(truth, truth) == pytest.approx(1) and coverage(truth, truth) == pytest.approx(1)
    copies = truth[torch.zeros(4, dtype=torch.long)]
    assert diversity(copies, truth) == 0 and coverage(copies, truth) == 0
    other = torch.where(mask[:, :, None], rgb, torch.rand(5, 2, 3, 1, 1))
    assert diversity(picture_set(other, mask), truth) == pytest.approx(1)
    assert diversity(truth[:1], truth) is None and coverage(truth[:1], truth) is None


def test_noise_is_little_diversity():
    base = torch.rand(1, 2, 3, 32, 32).repeat(6, 1, 1, 1, 1)
    truth = picture_set(torch.rand(6, 2, 3, 1, 1).expand(6, 2, 3, 32, 32))
    noisy = picture_set(base + 0.1 * torch.randn(base.shape))
    assert diversity(noisy, truth) < 0.2
