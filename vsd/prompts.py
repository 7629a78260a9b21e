"""Prompts and their embeddings: one for every view, the plain one for the score network, the negative one.

y is the plain prompt, y^c the prompt with the words of the camera's view. The text encoder runs once, at the start.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vsd.errors import InputError
from vsd.prior import DiffusionPrior, Text
from vsd.views import ViewSectors

LONGEST = 2000  # characters; far above what any text encoder reads


@dataclass(frozen=True)
class Prompts:
    """The texts of one object.

    prompt: y; negative: what guidance leads away from; views: the words of the views, None for the same prompt all
    around; overrides: whole prompts for some view words, in the place of "prompt, words".
    """

    prompt: str
    negative: str = ""
    views: ViewSectors | None = None
    overrides: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if not self.prompt.strip():
            raise InputError("prompt: it is empty; say what to make, for example 'a red car'")
        for name, text in (("prompt", self.prompt), ("negative", self.negative), *self.overrides.items()):
            if len(text) > LONGEST:
                raise InputError(f"{name}: {len(text)} characters; at most {LONGEST} are taken")
        known = self.views.words if self.views else ()
        for words in self.overrides:
            if words not in known:
                raise InputError(
                    f"prompt.overrides: no view is called '{words}'; the views are {', '.join(known) or 'none'}"
                )

    def of_views(self) -> list[str]:
        """y^c of every view, in the order of `views.words`; the plain prompt alone without views."""
        if self.views is None:
            return [self.prompt]
        return [self.overrides.get(words, f"{self.prompt}, {words}") for words in self.views.words]


class PromptTable:
    """The embeddings of `prompts` under a prior's text encoder, on the prior's device.

    plain, negative: Text of one prompt; views: Text of as many prompts as there are views.
    """

    def __init__(self, prior: DiffusionPrior, prompts: Prompts):
        self.prompts = prompts
        texts = encode(prior, [prompts.prompt, prompts.negative, *prompts.of_views()])
        self.plain, self.negative, self.views = texts[:1], texts[1:2], texts[2:]

    def of_cameras(self, azimuth: Tensor, elevation: Tensor) -> Text:
        """y^c of cameras at (B,) azimuths and elevations in degrees."""
        if self.prompts.views is None:
            return self.repeat(self.views, len(azimuth))
        return self.views[self.prompts.views.index(azimuth, elevation).to(self.views.states.device)]

    @staticmethod
    def repeat(text: Text, count: int) -> Text:
        """The one prompt of `text` for a batch of `count`."""
        return text[torch.zeros(count, dtype=torch.long, device=text.states.device)]


@torch.no_grad()
def encode(prior: DiffusionPrior, prompts: list[str]) -> Text:
    """Text conditions of prompts, with the pipeline's own tokenizers and encoders (two of them in SDXL)."""
    pipeline = prior.pipeline
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipeline, name, None)
        if encoder is not None:
            encoder.to(prior.device)
    states, _, *pooled = pipeline.encode_prompt(
        prompt=prompts, device=prior.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Text(states, pooled[0] if pooled else None).to(prior.device, prior.dtype)


def free_text_encoders(prior: DiffusionPrior) -> None:
    """Drops the text encoders, which nothing needs once the embeddings are made."""
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(prior.pipeline, name, None) is not None:
            setattr(prior.pipeline, name, None)
