import math

import pytest
import torch

from common.errors import InputError
from toybox.prior.architecture import untrained_pipeline
from toybox.world.captions import VOCABULARY
from vsd import gradients
from vsd.prior import DiffusionPrior
from vsd.prompts import Prompts, PromptTable
from vsd.score_distillation import ScoreDistillation, View
from vsd.timesteps import Timesteps
from vsd.views import Sector, ViewSectors, eight_sectors

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
    prior = DiffusionPrior(untrained_pipeline(VOCABULARY))
    prompts = Prompts("a red car", views=views or eight_sectors())
    return ScoreDistillation(prior, prompts, Timesteps(100), kind, scale, **more)


def view(azimuth=(0.0, 150.0), elevation=10.0):
    return View(torch.eye(4).repeat(2, 1, 1), torch.tensor(azimuth), torch.full((2,), elevation))


def draw():
    return torch.randn(2, 2, 8, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["sds", "vsd", "csd"])
def test_from_above_the_gradient_is_that_of_plain_guidance(kind):
    """Weights of zero are plain guidance; off is the same code as ever."""
    x_0, eps = draw()
    plain, led = make(kind).gradient(x_0, T, eps, view(elevation=70.0)), make(kind, perp_neg=1.0)
    torch.testing.assert_close(led.gradient(x_0, T, eps, view(elevation=70.0)), plain, atol=2e-4, rtol=1e-4)
    below = led.gradient(x_0, T, eps, view())
    assert not torch.allclose(below, make(kind).gradient(x_0, T, eps, view()), atol=1e-3)


def test_off_asks_the_prior_what_it_asked_before(monkeypatch):
    distillation, asked = make(), []
    predict = distillation.prior.predict_many
    monkeypatch.setattr(
        distillation.prior, "predict_many", lambda x, t, texts: asked.append(len(texts)) or predict(x, t, texts)
    )
    x_0, eps = draw()
    off = distillation.gradient(x_0, T, eps, view())
    x_t, w = distillation.prior.noise(x_0, T, eps), gradients.weight(distillation.prior.alphabar[T])
    table = distillation.table
    texts = [table.of_cameras(view().azimuth, view().elevation), table.repeat(table.negative, 2)]
    expected = gradients.sds(gradients.guide(*predict(x_t, T, texts), 7.5), eps, w)
    assert torch.equal(off, expected)
    distillation.perp_neg = 1.0
    distillation.gradient(x_0, T, eps, view())
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
    monkeypatch.setattr(led.prior, "predict_many", lambda x, t, texts: answers)
    x_0, eps = draw()
    led_away = led.gradient(x_0, T, eps, view())
    led.perp_neg = 0.0
    monkeypatch.setattr(led.prior, "predict_many", lambda x, t, texts: answers[:2])
    change = led_away - led.gradient(x_0, T, eps, view())
    scale = 1.0 if kind == "csd" else 3.0
    for row, azimuth in enumerate((0.0, 150.0)):
        of_front, of_side = published(azimuth)
        w = (1 - led.prior.alphabar[T[row]]) * scale * strength
        expected = w * (of_front * 2 * front[row] + of_side * 3 * side[row])
        torch.testing.assert_close(change[row], expected, atol=1e-5, rtol=1e-4)
        assert (change[row] * side[row]).sum() < 0 and (change[row] * wanted[row]).sum().abs() < 1e-5


def test_the_negatives_are_the_views_own_prompts():
    distillation = make()
    texts, weights = distillation.table.negatives(*(torch.tensor(x) for x in ([100.0, -100.0], [0.0, 0.0])))
    words = ["front view"] * 2, ["left side view", "right side view"]
    for text, row in zip(texts, words, strict=True):
        table = PromptTable(distillation.prior, Prompts("a red car", views=eight_sectors()))
        expected = [table.views.states[eight_sectors().words.index(word)] for word in row]
        assert torch.equal(text.states, torch.stack(expected))
    assert weights.shape == (2, 2)


def test_without_views_there_is_nothing_to_lead_away_from():
    prior = DiffusionPrior(untrained_pipeline(VOCABULARY))
    with pytest.raises(InputError, match="guidance.perp_neg: 0.5 without views"):
        ScoreDistillation(prior, Prompts("a red car"), Timesteps(100), "sds", perp_neg=0.5)
