"""Training of the toybox prior's image tower, part 3 of 3."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from toybox.prior.part import ToyboxPart


class ToyboxImageTower(ToyboxPart):
    """Trains the image tower on the symmetric contrastive loss of CLIP; the text tower stays as it is.

    Equal captions in a batch count as equally right. The text tower's pooled output is the text's embedding.

    Source: Zhai et al. 2022, LiT, locked-image tuning, with the roles of the towers exchanged.

    Args:
        folder: Of the pipeline, as `save_pretrained` writes it.
        lr: Learning rate of AdamW.
        warmup: Steps in which the learning rate rises to `lr`.
        decay: Steps in which it falls to 0 at the end.
        seed: Has no effect: a step draws nothing.
    """

    parts = ("image_encoder",)

    def __init__(
        self, folder: str = "runs/prior", lr: float = 1e-3, warmup: int = 100, decay: int = 500, seed: int = 0
    ):
        super().__init__(folder, lr, warmup, decay, seed)

    @override
    def configure_model(self) -> None:
        super().configure_model()
        if not hasattr(self, "temperature"):
            self.temperature = torch.nn.Parameter(torch.tensor(math.log(10.0)))

    def loss(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Loss, and the fraction of images whose best caption in the batch is their own."""
        image = F.normalize(self.network(batch["image"]).image_embeds.float(), dim=-1)  # (B, D)
        tokens = self.tokens(batch["captions"])
        with torch.no_grad():
            text = F.normalize(self.pipeline.text_encoder(tokens).pooler_output.float(), dim=-1)  # (B, D)
        logits = self.temperature.exp().clamp(max=100) * image @ text.T
        same = (tokens[:, None] == tokens[None]).all(-1)  # (B, B)
        target = same.float() / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        right = same.gather(1, logits.argmax(1, keepdim=True)).float().mean()
        return loss, right

    @override
    def training_step(self, batch: dict, _: int) -> Tensor:
        loss, right = self.loss(batch)
        self.log_dict({"train/loss": loss, "train/retrieval": right}, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: dict, index: int) -> None:
        loss, right = self.loss(batch)
        self.log_dict({"val/loss": loss, "val/retrieval": right}, prog_bar=True, batch_size=len(batch["captions"]))
