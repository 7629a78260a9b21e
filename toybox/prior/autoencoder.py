"""Training of the toybox prior's autoencoder, part 1 of 3."""

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from common.checks import require_range
from toybox.prior.architecture import untrained_pipeline
from toybox.prior.linear_start import start_linear
from toybox.prior.part import ToyboxPart
from toybox.world.captions import VOCABULARY

START = 32  # images that the linear start is solved on; more need gigabytes


class ToyboxAutoencoder(ToyboxPart):
    """Trains the autoencoder on squared error, an edge term and a weak Kullback-Leibler term.

    A folder that does not exist yet is written with random weights and the linear start of the autoencoder. Whenever
    the encoder has been trained, the scale of the latents is measured and written into the configuration as
    `scaling_factor`.

    Args:
        folder: Of the pipeline, as `save_pretrained` writes it.
        lr: Learning rate of AdamW.
        kl: Weight of the KL divergence, in nats per latent value.
        edges: Weight of `edge_error`.
        decoder_only: Leave the encoder, and so the latents, as they are.
        warmup: Steps in which the learning rate rises to `lr`.
        decay: Steps in which it falls to 0 at the end.
        seed: Of the random weights and of what the steps draw, >= 0.

    Raises:
        InputError: An option is out of range.
    """

    parts = ("vae",)

    def __init__(
        self,
        folder: str = "runs/prior",
        lr: float = 5e-4,
        kl: float = 1e-5,
        edges: float = 0.02,
        decoder_only: bool = False,
        warmup: int = 100,
        decay: int = 500,
        seed: int = 0,
    ):
        super().__init__(folder, lr, warmup, decay, seed)
        require_range("model.kl", kl, 0)
        require_range("model.edges", edges, 0)
        self.kl, self.edges, self.decoder_only = kl, edges, decoder_only

    @override
    def configure_model(self) -> None:
        if not self.folder.exists() and self.trainer.is_global_zero:
            self._start()
        self.trainer.strategy.barrier()
        super().configure_model()
        for part in (self.network.encoder, self.network.quant_conv):
            part.requires_grad_(not self.decoder_only)

    def _start(self) -> None:
        """Writes the pipeline from which all trainings start; the folder appears when it is complete."""
        pipeline = untrained_pipeline(VOCABULARY, self.seed)
        images = self.trainer.datamodule.train_batches(0).batch(0)["image"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            start_linear(pipeline.vae, images[:START])
        temporary = self.folder.with_name(f"{self.folder.name}.part")
        pipeline.save_pretrained(temporary)
        temporary.rename(self.folder)

    @override
    def training_step(self, batch: dict, _: int) -> Tensor:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        posterior = self.network.encode(image).latent_dist
        decoded = self.network.decode(posterior.sample(self.draws())).sample.float()
        error, edges = F.mse_loss(decoded, image), edge_error(decoded, image)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        self.log_dict({"train/psnr": psnr(error), "train/kl": divergence}, prog_bar=True)
        return error + self.edges * edges + self.kl * divergence

    @override
    def validation_step(self, batch: dict, index: int) -> None:
        latents = self.network.encode(batch["image"]).latent_dist.mode()
        error = F.mse_loss(self.network.decode(latents).sample.float(), batch["image"])
        self.log("val/psnr", psnr(error), prog_bar=True, batch_size=len(latents))
        self.log("val/latent_square", latents.float().square().mean(), batch_size=len(latents))

    @override
    def on_validation_epoch_end(self) -> None:
        if not self.decoder_only and not self.trainer.sanity_checking:
            square = self.trainer.callback_metrics["val/latent_square"]
            self.network.register_to_config(scaling_factor=float(square.rsqrt()))
            self.save_parts()


def edge_error(images: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels, the mean over both axes.

    Args:
        images: (B, C, H, W).
        truth: (B, C, H, W).

    Returns:
        A scalar. It sees edges, which cover few pixels, and no constant offset.
    """
    error = images - truth
    return (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error between images in [-1, 1]."""
    return 10 * torch.log10(4 / error)
