import numpy as np
import pytest
import torch

from common.errors import InputError
from toybox.world.captions import EITHER_SIDE, VIEW_WORDS, VIEWS, caption, parse_prompt, training_captions
from toybox.world.objects import COLOURS, OBJECTS
from vsd.views import Sector, ViewSectors


def words_at(azimuth, elevation=10.0):
    return VIEWS.words[VIEWS.index(torch.tensor([azimuth]), torch.tensor([elevation]))[0]]


def test_view_words_change_exactly_at_every_sector_boundary():
    ring = [s.words for s in VIEWS.sectors]
    assert [words_at(45.0 * i) for i in range(8)] == ring
    for i in range(8):
        edge = 45.0 * i + 22.5
        assert words_at(edge - 1e-3) == ring[i]
        assert words_at(edge) == ring[(i + 1) % 8], "a sector holds its start, not its stop"
        assert words_at(edge - 360) == words_at(edge) == words_at(edge + 720)
    assert words_at(90.0) == "left side view" and words_at(-90.0) == "right side view"
    assert words_at(0.0, 60.0) == "front view" and words_at(0.0, 60.01) == "overhead view"


@pytest.mark.parametrize(
    "sectors",
    [
        (Sector("front view", -45, 45), Sector("back view", 90, 315)),
        (Sector("front view", -45, 45), Sector("back view", 0, 315)),
        (Sector("front view", 45, 45),),
    ],
)
def test_sectors_must_cover_the_circle_once(sectors):
    with pytest.raises(InputError, match="cover 360 degrees once"):
        ViewSectors(sectors)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("colour", COLOURS)
def test_prompts_parse_back(name, colour):
    for view in (None, *VIEW_WORDS):
        assert parse_prompt(caption(name, colour, view)) == (name, colour, view)


def test_articles():
    assert caption("car", "orange") == "an orange car"
    assert caption("ice cream", "red", "front view") == "a red ice cream, front view"


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a red zebra", "unknown object 'zebra'"),
        ("a mauve car", "unknown colour 'mauve'"),
        ("a red car, worm's-eye view", 'unknown view "worm\'s-eye view"'),
        ("", "write it as"),
        ("red", "write it as"),
        ("a red car, front view, back view", "write it as"),
        ("a " + "very " * 5000 + "red car", "unknown colour 'very'"),
        ("../../etc \U0001f697", "unknown colour '../../etc'"),
    ],
)
def test_wrong_prompts_name_the_word_in_one_line(prompt, named):
    with pytest.raises(InputError) as caught:
        parse_prompt(prompt)
    message = str(caught.value)
    assert named in message and "\n" not in message and len(message) < 400


def test_training_captions_drop_words_at_the_stated_rates():
    n = 20000
    drawn = training_captions(
        ["car"] * n, ["red"] * n, ["left side view"] * n, np.random.default_rng(0), no_view=0.1, empty=0.2
    )
    share = {text: drawn.count(text) / n for text in set(drawn)}
    assert set(share) == {"", "a red car", f"a red car, {EITHER_SIDE}", "a red car, left side view"}
    assert share[""] == pytest.approx(0.2, abs=0.012)
    assert share["a red car"] == pytest.approx(0.1, abs=0.012)
    assert share[f"a red car, {EITHER_SIDE}"] == pytest.approx(0.14, abs=0.012)
