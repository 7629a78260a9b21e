"""Captions that differ in their view alone, kept apart in the text tower's pooled output.

The UNet takes the sides from the tokens of their words, and never asks for them in the pooled output, which is also
the text's embedding for the image tower. There the captions of left and right came out nearly alike (cosine 0.99), so
that no image tower could tell them apart. This term asks for it, at the cost of a few captions per step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from toybox.world.captions import VIEW_WORDS, caption
from toybox.world.objects import COLOURS, OBJECTS

GROUPS = 6  # objects per step


def captions_by_view(draws: torch.Generator) -> list[str]:
    """All captions of GROUPS random objects in a random colour each: with every view, and without.

    Args:
        draws: The generator of objects and colours.
    """
    kinds = [(name, colour) for name in OBJECTS for colour in COLOURS]
    drawn = torch.randint(len(kinds), (GROUPS,), generator=draws, device=draws.device).tolist()
    return [caption(*kinds[kind], view) for kind in drawn for view in (*VIEW_WORDS, None)]


def margin_loss(pooled: Tensor, tokens: Tensor, margin: float) -> Tensor:
    """Mean squared excess of the cosine of different captions over a margin.

    Args:
        pooled: (B, D) outputs of the text tower.
        tokens: (B, L) ids of the captions, of which at least two differ.
        margin: Cosine that costs nothing, in -1 ... 1.

    Returns:
        Scalar.
    """
    unit = F.normalize(pooled.float(), dim=-1)  # (B, D)
    different = (tokens[:, None] != tokens[None]).any(-1)  # (B, B)
    return torch.relu(unit @ unit.T - margin).square()[different].mean()
