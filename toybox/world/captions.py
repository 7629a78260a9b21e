"""Captions of toybox renders: "a red car, front left view".

The view words are those of `vsd.views.eight_sectors` and "side view" for either side. Training captions leave the
view out now and then, so that the prior also knows "a red car", and are empty now and then, for classifier-free
guidance.
"""

import numpy as np

from common.errors import InputError
from toybox.world.objects import COLOURS, OBJECTS
from vsd.views import ViewSectors, eight_sectors

VIEWS: ViewSectors = eight_sectors()
EITHER_SIDE = "side view"
SIDES = ("left side view", "right side view")
VIEW_WORDS = (*VIEWS.words, EITHER_SIDE)
# every word that a prompt may hold, in the order of their token ids
VOCABULARY = tuple(dict.fromkeys(" ".join([*OBJECTS, *COLOURS, *VIEW_WORDS, "a an"]).split() + [","]))


def caption(name: str, colour: str, view: str | None = None) -> str:
    """The prompt of an object.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        view: One of VIEW_WORDS, None for a prompt without.

    Returns:
        Such as "a red car, front view".
    """
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {name}" + (f", {view}" if view else "")


def mirrored(text: str) -> str:
    """The caption of the mirror image.

    Args:
        text: A caption.

    Returns:
        The caption with left and right exchanged.
    """
    places = {"left": "right", "right": "left"}
    return " ".join(places.get(word, word) for word in text.split(" "))


def parse_prompt(prompt: str) -> tuple[str, str, str | None]:
    """What a toybox prompt asks for.

    Args:
        prompt: Such as "a red car" or "a red car, front view".

    Returns:
        Object, colour and view words, None without.

    Raises:
        InputError: It names a word that the toybox lacks.
    """
    head, *tail = [part.strip() for part in prompt.lower().split(",")]
    words = head.split()
    if words and words[0] in ("a", "an"):
        words = words[1:]
    if len(words) < 2 or len(tail) > 1:
        raise InputError(f"prompt {_short(prompt)}: write it as 'a red car' or 'a red car, front view'")
    colour, name = words[0], " ".join(words[1:])
    if colour not in COLOURS:
        raise InputError(
            f"prompt {_short(prompt)}: unknown colour {_short(colour)}; the toybox has {', '.join(COLOURS)}"
        )
    if name not in OBJECTS:
        raise InputError(f"prompt {_short(prompt)}: unknown object {_short(name)}; the toybox has {', '.join(OBJECTS)}")
    if tail and tail[0] not in VIEW_WORDS:
        raise InputError(
            f"prompt {_short(prompt)}: unknown view {_short(tail[0])}; the toybox has {', '.join(VIEW_WORDS)}"
        )
    return name, colour, tail[0] if tail else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def training_captions(
    names: list[str],
    colours: list[str],
    views: list[str],
    rng: np.random.Generator,
    no_view: float = 0.1,
    empty: float = 0.1,
) -> list[str]:
    """A caption for each render, drawn anew each time. A fifth of the side views are called "side view".

    Args:
        names: B objects.
        colours: B colours.
        views: B view words.
        rng: What the captions are drawn from.
        no_view: The probability of a caption without view words.
        empty: The probability of an empty caption.

    Returns:
        B captions.
    """
    captions = []
    for name, colour, view in zip(names, colours, views, strict=True):
        draw, side = rng.random(2)
        if draw < empty:
            captions.append("")
        elif draw < empty + no_view:
            captions.append(caption(name, colour))
        elif view in SIDES and side < 0.2:
            captions.append(caption(name, colour, EITHER_SIDE))
        else:
            captions.append(caption(name, colour, view))
    return captions
