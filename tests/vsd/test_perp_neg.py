import math

import pytest
import torch

from common.errors import InputError
from tests.vsd.test_score_distillation import gradient
from toybox.prior.architecture import untrained_pipeline
from toybox.world.captions import VOCABULARY
from vsd import gradients
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior
from vsd.prompts import Prompts, PromptTable
from vsd.timesteps import Timesteps
from vsd.views import Sector, View, ViewSectors, eight_sectors

THREE = ViewSectors(
    (
        Sector("front view", -30, 30),
        Sector("side view", 30, 150),
        Sector("back view", 150, 210),
        Sector("side view", 210, 330),
    )
)
T = torch.tensor([100, 700])


def published(azimuth):
    """threestudio's weights, transcribed: of the front's and of the side's prompt."""

    def decay(a, b, c, r):
        return a * math.exp(-b * r) + c

    azimuth = abs((azimuth + 180) % 360 - 180)
    if azimuth < 90:
        r = 1 - azimuth / 90
        return -decay(4, 0.5, -2.426, r), -decay(4, 0.5, -2.426, 1 - r)
    r = 2 - azimuth / 90
    return -decay(1, 0.5, 0.967, r), -decay(1, 0.5, -0.606, r)


def negatives(views, azimuth, elevation=10.0):
    azimuth = torch.tensor(azimuth)
    index, weights = views.negatives(azimuth, torch.full_like(azimuth, elevation))
    return [[views.words[i] for i in row] for row in index.tolist()], weights


def test_weights_are_the_published_ones_of_front_and_nearest_side():
    azimuth = [0.0, 10.0, 89.0, 90.0, 135.0, 180.0, 225.0, 300.0, -45.0, 359.0]
    words, weights = negatives(eight_sectors(), azimuth)
    torch.testing.assert_close(weights, torch.tensor([published(a) for a in azimuth]).T)
    assert set(words[0]) == {"front view"}
    assert words[1] == ["left side view"] * 5 + ["right side view"] * 5, "180 is as near to either"
    assert (weights <= 0).all()
    around = torch.arange(-180.0, 180.0, 0.5)
    steps = THREE.negatives(around, torch.zeros_like(around))[1].diff()
    assert steps.abs().max() < 0.02, "no jump all around"


def test_views_of_three_words_lead_away_from_front_and_side():
    words, weights = negatives(THREE, [20.0, 160.0, 270.0])
    assert words == [["front view"] * 3, ["side view"] * 3]
    assert weights[0, 1] < -1, "the back is kept from being a front"


def test_from_above_nothing_is_led_away_from():
    assert negatives(eight_sectors(), [0.0, 120.0], elevation=70.0)[1].abs().max() == 0


def make(kind="sds", views=None, scale=7.5, **more):
    guidance = VSDGuidance("a red car", Timesteps(100), kind=kind, views=views or eight_sectors(), scale=scale, **more)
    guidance.prepare(DiffusionPrior(untrained_pipeline(VOCABULARY)))
    return guidance


def view(azimuth=(0.0, 150.0), elevation=10.0):
    return View(torch.eye(4).repeat(2, 1, 1), torch.tensor(azimuth), torch.full((2,), elevation))


def draw():
    return torch.randn(2, 2, 8, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["sds", "vsd", "csd"])
def test_from_above_the_gradient_is_that_of_plain_guidance(kind):
    """Weights of zero are plain guidance; off is the same code as ever."""
    x_0, eps = draw()
    plain, led = gradient(make(kind), x_0, T, eps, view(elevation=70.0)), make(kind, perp_neg=1.0)
    torch.testing.assert_close(gradient(led, x_0, T, eps, view(elevation=70.0)), plain, atol=2e-4, rtol=1e-4)
    below = gradient(led, x_0, T, eps, view())
    assert not torch.allclose(below, gradient(make(kind), x_0, T, eps, view()), atol=1e-3)


def test_off_asks_the_prior_what_it_asked_before(monkeypatch):
    distillation, asked = make(), []
    predict = distillation.core.prior.predict_many
    monkeypatch.setattr(
        distillation.core.prior, "predict_many", lambda x, t, texts: asked.append(len(texts)) or predict(x, t, texts)
    )
    x_0, eps = draw()
    off = gradient(distillation, x_0, T, eps, view())
    x_t, w = distillation.core.prior.noise(x_0, T, eps), gradients.weight("sigma2", distillation.core.prior.alphabar[T])
    table = distillation.table
    texts = [table.of_cameras(view().azimuth, view().elevation), table.negative.repeat(2)]
    expected = gradients.sds(gradients.guide(*predict(x_t, T, texts), 7.5), eps, w)
    assert torch.equal(off, expected)
    distillation.perp_neg = 1.0
    gradient(distillation, x_0, T, eps, view())
    assert asked == [2, 4], "one pass for all texts"


@pytest.mark.parametrize(("kind", "strength"), [("sds", 1.0), ("csd", 1.0), ("sds", 0.5)])
def test_the_gradient_leads_away_from_the_other_views_across_the_wanted_one(monkeypatch, kind, strength):
    """Closed form: predictions along the axes, so that what is perpendicular can be read off."""
    led = make(kind, scale=3.0, perp_neg=strength)
    axes = torch.zeros(3, 2, 8, 16, 16)
    for k in range(3):
        axes[k, :, k, 0, 0] = 1.0
    wanted, front, side = axes
    uncond = torch.full_like(wanted, 0.25)
    # The others also lean on the wanted direction, which must not count.
    answers = [uncond + wanted, uncond, uncond + 2 * front + 5 * wanted, uncond + 3 * side - wanted]
    monkeypatch.setattr(led.core.prior, "predict_many", lambda x, t, texts: answers)
    x_0, eps = draw()
    led_away = gradient(led, x_0, T, eps, view())
    led.perp_neg = 0.0
    monkeypatch.setattr(led.core.prior, "predict_many", lambda x, t, texts: answers[:2])
    change = led_away - gradient(led, x_0, T, eps, view())
    scale = 1.0 if kind == "csd" else 3.0
    for row, azimuth in enumerate((0.0, 150.0)):
        of_front, of_side = published(azimuth)
        w = (1 - led.core.prior.alphabar[T[row]]) * scale * strength
        expected = w * (of_front * 2 * front[row] + of_side * 3 * side[row])
        torch.testing.assert_close(change[row], expected, atol=1e-5, rtol=1e-4)
        assert (change[row] * side[row]).sum() < 0 and (change[row] * wanted[row]).sum().abs() < 1e-5


def test_the_negatives_are_the_views_own_prompts():
    distillation = make()
    texts, weights = distillation.table.negatives(*(torch.tensor(x) for x in ([100.0, -100.0], [0.0, 0.0])))
    words = ["front view"] * 2, ["left side view", "right side view"]
    for text, row in zip(texts, words, strict=True):
        table = PromptTable(distillation.core.prior, Prompts("a red car", views=eight_sectors()))
        expected = [table.views.states[eight_sectors().words.index(word)] for word in row]
        assert torch.equal(text.states, torch.stack(expected))
    assert weights.shape == (2, 2)


def test_without_views_there_is_nothing_to_lead_away_from():
    with pytest.raises(InputError, match="guidance.perp_neg: 0.5 without views"):
        VSDGuidance("a red car", Timesteps(100), kind="sds", views=None, perp_neg=0.5)


def test_the_wanted_view_lies_between_the_nearest_two():
    """At 45 degrees with three words the view's own prompt is the side's, which Perp-Neg leads away from."""
    azimuth = torch.tensor([0.0, 45.0, 90.0, 135.0, 180.0, -45.0, -180.0])
    first, second, weight = THREE.between(azimuth, torch.zeros(7))
    words = [(THREE.words[a], THREE.words[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert words == [("front view", "side view")] * 2 + [("side view", "back view")] * 3 + [
        ("front view", "side view"),
        ("side view", "back view"),
    ]
    torch.testing.assert_close(weight, torch.tensor([0.0, 0.5, 0.0, 0.5, 1.0, 0.5, 1.0]))
    above = THREE.between(torch.tensor([45.0]), torch.tensor([80.0]))
    assert THREE.words[above[0]] == THREE.words[above[1]] == "overhead view"
    led = make(views=THREE, perp_neg=1.0)
    views, text = led.table.views.states, led.conditions(view((45.0, 135.0))).text.states
    torch.testing.assert_close(text[0], (views[0] + views[1]) / 2)
    torch.testing.assert_close(text[1], (views[1] + views[2]) / 2)
    plain = make(views=THREE).conditions(view((45.0, 135.0))).text.states
    assert torch.equal(plain[0], views[1]), "without Perp-Neg the prompt is the sector's"
