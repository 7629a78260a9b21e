"""Prompts and their embeddings: one for every view, the plain one for the score network, the negative one.

y is the plain prompt, y^c the prompt with the words of the camera's view. The text encoder runs once, at the start, if
at all: see embeddings.
"""

import re
from dataclasses import dataclass, field

from torch import Tensor

from common.errors import InputError
from vsd.embeddings import embed
from vsd.prior import DiffusionPrior, Text
from vsd.score_distillation import Conditions
from vsd.views import View, ViewSectors

LONGEST = 2000  # characters; far above what any text encoder reads
BYTES = 256  # a tokenizer of fewer tokens cannot spell every text: it knows words, as the toybox's does


@dataclass(frozen=True)
class Prompts:
    """The texts of one object.

    Args:
        prompt: y.
        negative: What guidance leads away from.
        views: The words of the views; None for the same prompt all around.
        overrides: Whole prompts for some view words, in the place of "prompt, words".

    Raises:
        InputError: A text is empty or too long, or an override names an unknown view.
    """

    prompt: str
    negative: str = ""
    views: ViewSectors | None = None
    overrides: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if not self.prompt.strip():
            raise InputError("prompt: it is empty; say what to make, for example 'a red car'")
        overrides = {f"guidance.overrides.{words}": text for words, text in self.overrides.items()}
        for name, text in {"prompt": self.prompt, "guidance.negative": self.negative, **overrides}.items():
            if len(text) > LONGEST:
                raise InputError(f"{name}: {len(text)} characters; at most {LONGEST} are taken")
        known = self.views.words if self.views else ()
        for words in self.overrides:
            if words not in known:
                raise InputError(
                    f"guidance.overrides: no view is called '{words}'; the views are {', '.join(known) or 'none'}"
                )

    def of_views(self) -> list[str]:
        """y^c of every view, in the order of `views.words`; the plain prompt alone without views."""
        if self.views is None:
            return [self.prompt]
        return [self.overrides.get(words, f"{self.prompt}, {words}") for words in self.views.words]


class PromptTable:
    """The embeddings of an object's texts under a prior's text encoder, on the prior's device.

    Args:
        prior: With its text encoder.
        prompts: The texts.

    Attributes:
        plain: Text of y.
        negative: Text of the negative prompt.
        views: Text of y^c, one per view.
    """

    def __init__(self, prior: DiffusionPrior, prompts: Prompts):
        self.prompts = prompts
        check_words(prior, prompts)
        texts = embed(prior, [prompts.prompt, prompts.negative, *prompts.of_views()])
        self.plain, self.negative, self.views = texts[:1], texts[1:2], texts[2:]

    def of_cameras(self, azimuth: Tensor, elevation: Tensor) -> Text:
        """y^c of cameras at (B,) azimuths and elevations in degrees."""
        if self.prompts.views is None:
            return self.views.repeat(len(azimuth))
        return self.views[self.prompts.views.index(*self._here(azimuth, elevation))]

    def between_views(self, azimuth: Tensor, elevation: Tensor) -> Text:
        """Perp-Neg's y^c: embeddings between the two nearest of front, side and back; overhead that view's own."""
        first, second, weight = self.prompts.views.between(*self._here(azimuth, elevation))
        return self.views[first].lerp(self.views[second], weight)

    def negatives(self, azimuth: Tensor, elevation: Tensor) -> tuple[list[Text], Tensor]:
        """Two prompts per camera that Perp-Neg leads away from, each a Text of B, and their weights (2, B)."""
        index, weights = self.prompts.views.negatives(*self._here(azimuth, elevation))
        return [self.views[i] for i in index], weights

    def conditions(self, view: View, plain: Text, perp_neg: float = 0.0) -> Conditions:
        """What B renders are to show.

        Args:
            view: Of the B renders.
            plain: y under phi's own text encoder.
            perp_neg: How strongly the prior is led away from the other views; 0 for not at all.
        """
        count, where = len(view.azimuth), (view.azimuth, view.elevation)
        conditions = Conditions(
            text=self.between_views(*where) if perp_neg else self.of_cameras(*where),
            negative=self.negative.repeat(count),
            plain=plain.repeat(count),
            cameras=view.cameras,
        )
        if perp_neg:
            conditions.away, weights = self.negatives(*where)
            conditions.away_weights = perp_neg * weights
        return conditions

    def _here(self, *angles: Tensor) -> list[Tensor]:
        return [angle.to(self.views.states.device, non_blocking=True) for angle in angles]


def check_words(prior: DiffusionPrior, prompts: Prompts) -> None:
    """InputError for a word that the toybox's text encoder never met; other models spell any text."""
    tokenizer = prior.pipeline.tokenizer
    if len(tokenizer) >= BYTES:
        return
    # A whole word's token ends in </w>; single letters are what unknown words fall into.
    words = [token[:-4] for token in tokenizer.get_vocab() if token.endswith("</w>")]
    known = [word for word in words if len(word) > 1 or word == "a"]
    texts = [("prompt", prompts.prompt), ("negative", prompts.negative), *(("prompt", y) for y in prompts.of_views())]
    for name, text in texts:
        for word in re.findall(r"\w+|[^\w\s,]+", text.lower()):
            if word not in known:
                raise InputError(
                    f"{name} '{_short(text)}': unknown word '{_short(word)}'; the toybox has {' '.join(sorted(known))}"
                )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
