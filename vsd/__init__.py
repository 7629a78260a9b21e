"""Score distillation of images: needs torch, diffusers and peft alone, no Lightning and no 3D.

    from vsd import Conditions, DiffusionPrior, ScoreDistillation, ScoreNetwork, embed

gives the core, for any models, optimizer and loop; `vsd.guidance` is the Lightning callback.
"""

import importlib
from typing import Any

HOMES = {
    "Conditions": "vsd.score_distillation",
    "DiffusionPrior": "vsd.prior",
    "Prompts": "vsd.prompts",
    "PromptTable": "vsd.prompts",
    "ScoreDistillation": "vsd.score_distillation",
    "ScoreNetwork": "vsd.score_network",
    "ScoreSettings": "vsd.score_trainer",
    "ScoreTrainer": "vsd.score_trainer",
    "Text": "vsd.prior",
    "Timesteps": "vsd.timesteps",
    "ancestral_samples": "vsd.sampling",
    "embed": "vsd.embeddings",
    "load_pipeline": "vsd.prior",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    # Imported when first asked for: diffusers takes seconds, which who needs view words alone should not wait for.
    if name not in HOMES:
        raise AttributeError(f"module 'vsd' has no attribute '{name}'")
    return getattr(importlib.import_module(HOMES[name]), name)
