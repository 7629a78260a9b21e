"""CLIP score, R-precision, and the distance to the prior's samples in CLIP's features, where there is no truth.

Source: Hessel et al. 2021, CLIPScore (without its factor of 2.5, times 100 as is the custom); Park et al. 2021 and Jain
et al. 2022, Dream Fields, R-precision.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from common.errors import InputError
from evaluation.kid import kid
from toybox.world.captions import caption
from toybox.world.objects import COLOURS, OBJECTS

# Prompts that a picture could be taken for: 96 objects in colours.
DISTRACTORS = tuple(caption(name, colour) for name in OBJECTS for colour in COLOURS)


@dataclass(frozen=True)
class CLIPFigures:
    """What CLIP says of a set of pictures.

    Args:
        clip_score: 100 times the mean cosine between views and prompt, negative ones count as 0.
        r_precision: The fraction of the views whose nearest prompt of all candidates is the right one.
        kid_prior: KID to the prior's samples; None without samples.
        kid_prior_error: Its standard error.
        diversity_prior: Distance between objects over that between the prior's samples; None without samples or for
            one object.
    """

    clip_score: float
    r_precision: float
    kid_prior: float | None = None
    kid_prior_error: float | None = None
    diversity_prior: float | None = None


class CLIPJudge:
    """A CLIP model of transformers.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: CLIPModel, tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.size = model.config.vision_config.image_size
        self.length = model.config.text_config.max_position_embeddings

    @classmethod
    def load(cls, name: str) -> "CLIPJudge":
        """Loads a model.

        Args:
            name: A folder saved with save_pretrained, or a hub id such as openai/clip-vit-base-patch32.

        Returns:
            The judge.

        Raises:
            InputError: It does not load.
        """
        if Path(name).is_file():
            raise InputError(f"--clip: {name} is a file; name a folder or an id of a CLIP model")
        try:
            return cls(CLIPModel.from_pretrained(name), AutoTokenizer.from_pretrained(name))
        except (OSError, ValueError) as error:
            shown, reason = (" ".join(words.split())[:160] for words in (name, str(error)))
            raise InputError(
                f"--clip: {shown} does not load ({reason}); name a folder or an id of a CLIP model"
            ) from error

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> Tensor:
        """Unit vectors of prompts.

        Args:
            prompts: B strings.

        Returns:
            (B, D).
        """
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        out = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return F.normalize(self.model.text_projection(out.pooler_output), dim=-1)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Unit vectors of pictures.

        Args:
            images: (B, 3, S, S) in [0, 1]; scaled to the model's size.

        Returns:
            (B, D).
        """
        images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        pooled = [self.model.vision_model(part).pooler_output for part in ((images - mean) / std).split(32)]
        return F.normalize(self.model.visual_projection(torch.cat(pooled)), dim=-1)

    def measure(self, rgb: Tensor, prompt: str, others: list[str], samples: Tensor | None = None) -> CLIPFigures:
        """The figures of a set of pictures.

        Args:
            rgb: (N, V, 3, S, S), N objects in V views, in [0, 1].
            prompt: What they should show.
            others: Prompts that compete with it beside DISTRACTORS; may hold the prompt.
            samples: (M, V, 3, S', S'), the prior's samples of the prompt in the same views, M >= 3; None for none.

        Returns:
            The figures over all objects and views.
        """
        candidates = list(dict.fromkeys([prompt, *others, *DISTRACTORS]))
        seen = self.image_features(rgb.flatten(0, 1)).view(*rgb.shape[:2], -1)  # (N, V, D)
        cosine = seen.flatten(0, 1) @ self.text_features(candidates).T  # (N V, candidates)
        figures = CLIPFigures(
            clip_score=float(100 * cosine[:, 0].clamp(min=0).mean()),
            r_precision=float((cosine.argmax(1) == 0).float().mean()),
        )
        if samples is None:
            return figures
        aim = self.image_features(samples.flatten(0, 1)).view(*samples.shape[:2], -1)  # (M, V, D)
        # KID's kernel divides by D, which suits features of unit variance; these have unit length.
        distance = kid(*(features * features.shape[-1] ** 0.5 for features in (seen, aim)))
        return replace(
            figures,
            kid_prior=distance.value if distance else None,
            kid_prior_error=distance.error if distance else None,
            diversity_prior=spread(seen) / spread(aim) if len(seen) > 1 else None,
        )


def spread(features: Tensor) -> float:
    """The mean of 1 - cosine between two objects in the same view.

    Args:
        features: (N, V, D), unit vectors, N >= 2.
    """
    count, views = features.shape[:2]
    total = features.sum(0).square().sum()  # of all pairs, an object with itself among them, over all views
    return float(1 - (total - count * views) / (count * (count - 1) * views))
