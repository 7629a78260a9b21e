"""VSDGuidance: score distillation as a Lightning callback.

List it under trainer.callbacks. It loads the prior, offers itself to the stage (its `guidances` list), trains the score
network after every particle step, keeps its own state in the checkpoint and, when training ends, exports phi to the
stage's `run_folder`.
"""

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from common.errors import InputError
from common.ranks import average
from vsd.embeddings import free_text_encoders
from vsd.prior import TOYBOX, DiffusionPrior
from vsd.prompts import Prompts
from vsd.score_distillation import Kind, ScoreDistillation, ScoreSettings, View
from vsd.timesteps import Timesteps
from vsd.views import ViewSectors, eight_sectors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CHECK_EVERY = 50  # steps between looks at the count of skipped gradients, each of which waits for the device


class VSDGuidance(pl.Callback):
    """Guides a stage's particles with a prior, by VSD, SDS, ESD or CSD.

    prompt, negative, overrides, views: see Prompts, the toybox's eight view sectors by default; model: "toybox", a
    folder or a hub id; timesteps, kind, scale, rescale, esd_scale, clamp, score, seed, perp_neg: see ScoreDistillation;
    dtype: of the prior; nan_limit: gradients that may be skipped because they are not finite before training stops.
    """

    def __init__(
        self,
        prompt: str,
        timesteps: Timesteps,
        model: str = TOYBOX,
        kind: Kind = "vsd",
        scale: float = 7.5,
        rescale: float = 0.0,
        esd_scale: float = 0.5,
        clamp: float | None = None,
        score: ScoreSettings | None = None,
        negative: str = "",
        overrides: dict[str, str] | None = None,
        views: ViewSectors | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        nan_limit: int = 20,
        seed: int = 0,
        perp_neg: float = 0.0,
    ):
        self.prompts = Prompts(prompt, negative, views or eight_sectors(), overrides or {})
        self.model, self.dtype, self.nan_limit, self.seed = model, DTYPES[dtype], nan_limit, seed
        self.timesteps = timesteps
        self.settings = {
            "kind": kind,
            "scale": scale,
            "rescale": rescale,
            "esd_scale": esd_scale,
            "clamp": clamp,
            "score": score,
            "perp_neg": perp_neg,
        }
        self.kind = kind
        self.core: ScoreDistillation | None = None
        self._restored: dict | None = None

    @property
    def state_key(self) -> str:
        return self._generate_state_key(kind=self.kind, prompt=self.prompts.prompt)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if str(trainer.precision).startswith("16"):
            raise InputError("trainer.precision: fp16 underflows in score distillation; use bf16-mixed or 32-true")
        if not hasattr(pl_module, "guidances"):
            raise InputError(f"trainer.callbacks: {type(pl_module).__name__} is no stage that VSDGuidance can guide")
        prior = DiffusionPrior.load(self.model, trainer.strategy.root_device, self.dtype)
        self.core = ScoreDistillation(
            prior,
            self.prompts,
            self.timesteps,
            seed=self.seed,
            rank=trainer.global_rank,
            average=average if trainer.world_size > 1 else None,
            **self.settings,
        )
        free_text_encoders(prior)
        if self._restored is not None:
            self.core.load_state_dict(self._restored)
        pl_module.guidances.append(self)

    def particle_loss(self, images: Tensor, view: View, steps: Tensor) -> Tensor:
        """See ScoreDistillation.particle_loss."""
        return self.core.particle_loss(images, view, steps)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        loss = self.core.update_score()
        if loss is not None:
            pl_module.log(f"train/{self.kind}_score_loss", loss)
        if self.core.calls % CHECK_EVERY:
            return
        skipped = int(trainer.strategy.reduce(self.core.skipped.clone(), reduce_op="sum"))  # all ranks stop together
        if skipped > self.nan_limit:
            raise InputError(
                f"guidance: {skipped} gradients were not finite in {self.core.calls} steps; lower "
                "guidance.scale or the stage's learning rates, or set guidance.dtype to float32"
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.core.network is None or not trainer.is_global_zero:
            return
        trained = [guidance for guidance in pl_module.guidances if guidance.core.network is not None]
        name = "phi" if len(trained) == 1 else f"phi-{trained.index(self)}"
        self.core.network.export(pl_module.run_folder / name)

    def state_dict(self) -> dict:
        return {} if self.core is None else self.core.state_dict()

    def load_state_dict(self, state: dict) -> None:
        # Lightning restores callbacks before or after setup, depending on the call.
        self._restored = state
        if self.core is not None:
            self.core.load_state_dict(state)
