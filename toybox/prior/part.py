"""The common base of the three trainings of the toybox prior.

The prior is a Stable Diffusion pipeline in a folder. A part is what one training changes in it: the autoencoder, the
UNet with the text tower, the image tower, in this order. What a step draws is a function of (seed, rank, step), and
`PartCheckpoint` keeps everything else, so that a training that was interrupted ends with the same bits (on a CPU).
"""

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers import StableDiffusionPipeline
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from typing_extensions import override

from common.checks import require_range
from common.errors import InputError
from common.files import SUMS
from common.randomness import generator
from vsd.prior import load_pipeline


def warm_hold_decay(step: int, total: int, warmup: int, decay: int) -> float:
    """Learning rate factor: a linear rise, 1, and a linear fall to 0.

    Args:
        step: Optimizer steps taken so far.
        total: Steps of the whole training.
        warmup: Steps of the rise.
        decay: Steps of the fall, the last ones of the training.

    Returns:
        The factor, in [0, 1].
    """
    return min(1.0, (step + 1) / max(warmup, 1), max(0.0, total - step) / max(decay, 1))


class ToyboxPart(pl.LightningModule):
    """Trains parts of the pipeline in a folder, and writes them back at validations and at the end.

    Where a weight averaging callback runs, the averaged weights are written.

    Args:
        folder: Of the pipeline, as `save_pretrained` writes it.
        lr: Learning rate of AdamW.
        warmup: Steps in which the learning rate rises to `lr`.
        decay: Steps in which it falls to 0 at the end.
        seed: Of the random weights and of what the steps draw, >= 0.

    Raises:
        InputError: An option is out of range.
    """

    parts: tuple[str, ...]

    def __init__(self, folder: str, lr: float, warmup: int = 100, decay: int = 500, seed: int = 0):
        super().__init__()
        require_range("model.lr", lr, 0)
        for option, count in (("warmup", warmup), ("decay", decay), ("seed", seed)):
            require_range(f"model.{option}", count, 0)
        self.folder, self.lr, self.warmup, self.decay, self.seed = Path(folder), lr, warmup, decay, seed
        self.ids: dict[str, Tensor] = {}

    @override
    def configure_model(self) -> None:
        if hasattr(self, "trained"):
            return
        if not self.folder.is_dir():
            raise InputError(f"model.folder: {self.folder} does not exist; train the autoencoder, which writes it")
        # In a list, so that Lightning neither saves nor averages what is not trained here.
        self.frozen = [load_pipeline(self.folder)]
        self.trained = torch.nn.ModuleDict({part: getattr(self.pipeline, part) for part in self.parts})
        self.trained.train().requires_grad_(True).to(memory_format=torch.channels_last)

    @property
    def pipeline(self) -> StableDiffusionPipeline:
        """The whole pipeline, the parts in training included."""
        return self.frozen[0]

    @property
    def network(self) -> torch.nn.Module:
        """The first of the parts."""
        return self.trained[self.parts[0]]

    @override
    def on_fit_start(self) -> None:
        for name in ("vae", "text_encoder", "unet", "image_encoder"):
            part = getattr(self.pipeline, name).to(self.device)
            if name not in self.parts:
                part.requires_grad_(False).eval()

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of all parameters, at the learning rate `lr`."""
        return torch.optim.AdamW(self.parameters(), self.lr, betas=(0.9, 0.99), foreach=True)

    @override
    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer()
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warm_hold_decay(step, total, self.warmup, self.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_load_checkpoint(self, checkpoint: dict) -> None:
        # Lightning would end such a run at once, without a word, and nothing would be written.
        step, total = checkpoint["global_step"], self.trainer.max_steps
        if step >= total:
            raise InputError(
                f"ckpt_path: its step, {step}, is not below trainer.max_steps, {total}; "
                "resume with the configuration that it began with"
            )

    @override
    def on_validation_model_eval(self) -> None:
        self.trained.eval()

    @override
    def on_validation_model_train(self) -> None:
        self.trained.train()

    @override
    def on_train_end(self) -> None:
        self.save_parts()

    def save_parts(self) -> None:
        """Writes the parts into the folder, by rename, so that a reader never sees half of a file.

        Checksums in the folder, as a copy of the shipped prior has, no longer hold and are removed.
        """
        if self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        (self.folder / SUMS).unlink(missing_ok=True)
        for part, network in self.trained.items():
            temporary = self.folder / f"{part}.part"
            network.save_pretrained(temporary)
            for file in temporary.iterdir():
                file.replace(self.folder / part / file.name)
            temporary.rmdir()

    def draws(self) -> torch.Generator:
        """The generator of this step's draws, on the device."""
        return generator(self.device, self.seed, self.trainer.global_rank, self.trainer.global_step)

    def tokens(self, captions: list[str]) -> Tensor:
        """Token ids (B, L) of captions, of which each is tokenised once."""
        tokenizer = self.pipeline.tokenizer
        new = [text for text in dict.fromkeys(captions) if text not in self.ids]
        if new:
            length = tokenizer.model_max_length
            self.ids |= dict(
                zip(
                    new,
                    tokenizer(new, padding="max_length", max_length=length, return_tensors="pt").input_ids,
                    strict=True,
                )
            )
        return torch.stack([self.ids[text] for text in captions]).to(self.device)


class PartCheckpoint(Checkpoint):
    """Keeps the last state of a training in one file: weights, averaged weights, Adam's moments, counters.

    The file is replaced by rename. The state after the last step is not kept: a training that is interrupted before
    its weights are in the folder then has steps left, at whose end it writes them.

    Args:
        path: The file, such as runs/prior-training/unet/last.ckpt.
        every: Steps between two states, at least 1. One is also kept when SIGTERM ends the training of one process;
            that of several processes ends at once.
    """

    def __init__(self, path: str, every: int = 500):
        super().__init__()
        if every < 1:
            raise InputError(f"every: {every} steps between checkpoints of a part; at least 1 is needed")
        self.path, self.every = Path(path), every

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            # Lightning's handler broadcasts from within a step, and waits for ever where all ranks get the signal.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        due = trainer.global_step % self.every == 0 or (trainer.received_sigterm and trainer.world_size == 1)
        if not due or trainer.global_step >= trainer.max_steps:
            return
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            part.replace(self.path)
        trainer.strategy.barrier()
