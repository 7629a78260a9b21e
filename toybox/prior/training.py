"""Training of the toybox prior: its autoencoder, its UNet with the text tower, its image tower.

Each LightningModule trains parts of the Stable Diffusion pipeline in `folder` and writes them back with
`save_pretrained` at every validation, from the averaged weights where a weight averaging callback runs, and at the end.
They are trained in this order. `save_half` makes the fp16 copy that the project ships.
"""

import math
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from toybox.prior.architecture import untrained_pipeline
from toybox.prior.linear_start import start_linear
from toybox.world.captions import VOCABULARY
from vsd.prior import load_pipeline


def warm_hold_decay(step: int, total: int, warmup: int, decay: int) -> float:
    """Learning rate factor: a linear rise over `warmup` steps, 1, and a linear fall over the last `decay` steps."""
    return min(1.0, (step + 1) / max(warmup, 1), max(0.0, total - step) / max(decay, 1))


class ToyboxPart(pl.LightningModule):
    """Trained parts of the pipeline in `folder`, which is made with random weights if it does not exist.

    lr: AdamW's; warmup, decay: steps of the learning rate's rise and final fall; seed: of the random weights.
    """

    parts: tuple[str, ...]

    def __init__(self, folder: str, lr: float, warmup: int = 100, decay: int = 500, seed: int = 0):
        super().__init__()
        self.folder, self.lr, self.warmup, self.decay, self.seed = Path(folder), lr, warmup, decay, seed

    def configure_model(self) -> None:
        if hasattr(self, "trained"):
            return
        self.fresh = not (self.folder / "model_index.json").exists()
        if self.fresh:
            untrained_pipeline(VOCABULARY, self.seed).save_pretrained(self.folder)
        # In a list, so that Lightning neither saves nor averages what is not trained here.
        self.frozen = [load_pipeline(self.folder)]
        self.trained = torch.nn.ModuleDict({part: getattr(self.pipeline, part) for part in self.parts})
        self.trained.train().requires_grad_(True).to(memory_format=torch.channels_last)

    @property
    def pipeline(self) -> StableDiffusionPipeline:
        return self.frozen[0]

    @property
    def network(self) -> torch.nn.Module:
        """The first of the parts."""
        return self.trained[self.parts[0]]

    def on_fit_start(self) -> None:
        for name in ("vae", "text_encoder", "unet", "image_encoder"):
            part = getattr(self.pipeline, name).to(self.device)
            if name not in self.parts:
                part.requires_grad_(False).eval()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, betas=(0.9, 0.99), foreach=True)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warm_hold_decay(step, total, self.warmup, self.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_model_eval(self) -> None:
        self.trained.eval()

    def on_validation_model_train(self) -> None:
        self.trained.train()

    def save_parts(self) -> None:
        """Writes the parts into the folder, by rename, so that a reader never sees half of a file."""
        if self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        for part, network in self.trained.items():
            temporary = self.folder / f"{part}.part"
            network.save_pretrained(temporary)
            for file in temporary.iterdir():
                file.replace(self.folder / part / file.name)
            temporary.rmdir()

    def on_train_end(self) -> None:
        self.save_parts()

    def tokens(self, captions: list[str]) -> Tensor:
        """Token ids (B, L) of captions."""
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(captions, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        return ids.input_ids.to(self.device)


class ToyboxAutoencoder(ToyboxPart):
    """Trains the autoencoder on mean squared error with a weak Kullback-Leibler term.

    kl: weight of the KL divergence, in nats per latent value; decoder_only: leave the encoder, and so the latents, as
    they are. At the end the latents' scale is measured and written into the configuration as `scaling_factor`.
    """

    parts = ("vae",)

    def __init__(
        self, folder: str = "runs/prior", lr: float = 5e-4, kl: float = 1e-5, decoder_only: bool = False, **rest
    ):
        super().__init__(folder, lr, **rest)
        self.kl, self.decoder_only = kl, decoder_only

    def configure_model(self) -> None:
        super().configure_model()
        for part in (self.network.encoder, self.network.quant_conv):
            part.requires_grad_(not self.decoder_only)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.fresh:
            batch = next(iter(self.trainer.datamodule.train_dataloader()))
            start_linear(self.network, batch["image"].to(self.device))

    def training_step(self, batch: dict, _: int) -> Tensor:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        posterior = self.network.encode(image).latent_dist
        error = F.mse_loss(self.network.decode(posterior.sample()).sample.float(), image)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        self.log_dict({"train/psnr": psnr(error), "train/kl": divergence}, prog_bar=True)
        return error + self.kl * divergence

    def validation_step(self, batch: dict, index: int) -> None:
        latents = self.network.encode(batch["image"]).latent_dist.mode()
        error = F.mse_loss(self.network.decode(latents).sample.float(), batch["image"])
        self.log("val/psnr", psnr(error), prog_bar=True, batch_size=len(latents))
        self.log("val/latent_square", latents.float().square().mean(), batch_size=len(latents))

    def on_validation_epoch_end(self) -> None:
        if not self.decoder_only and not self.trainer.sanity_checking:
            square = self.trainer.callback_metrics["val/latent_square"]
            self.network.register_to_config(scaling_factor=float(square.rsqrt()))
            self.save_parts()


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error between images in [-1, 1]."""
    return 10 * torch.log10(4 / error)


class ToyboxUnet(ToyboxPart):
    """Trains the UNet on the prediction loss of the pipeline's scheduler (v: weight SNR + 1 on the eps error).

    The text tower learns along with it, as in latent diffusion: a tower that was trained to match pictures first, by
    contrast, had found left and right alike, and a UNet on it painted either by chance. Where a batch holds mirror
    images (data.twins), both get the same t and noise: what they have in common cancels in what tells them apart.

    t_power: t / T is u^t_power for a uniform u; below 1, more of the steps are where the words decide.
    Latents are encoded once, over the background of their first draw, and kept in memory (4 kB each). Not compiled:
    torch 2.13's compiled backward leaves the UNet's inner blocks without a gradient on a CPU.
    """

    parts = ("unet", "text_encoder")

    def __init__(self, folder: str = "runs/prior", lr: float = 8e-4, t_power: float = 1.0, **rest):
        super().__init__(folder, lr, **rest)
        self.t_power = t_power

    def configure_model(self) -> None:
        super().configure_model()
        # The backward of torch's fused attention in bf16 takes six times that of plain matrix products on a CPU.
        self.network.set_attn_processor(AttnProcessor())
        self.pipeline.text_encoder.set_attn_implementation("eager")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        count = 2 * len(self.trainer.datamodule.train_renders)
        shape = (self.pipeline.unet.config.in_channels, *2 * (self.pipeline.unet.config.sample_size,))
        self.latents = torch.zeros(count, *shape, dtype=torch.float16)
        self.encoded = torch.zeros(count, dtype=torch.bool)
        self.alphabar = self.pipeline.scheduler.alphas_cumprod.to(self.device)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Scaled latents of images, noiseless."""
        vae = self.pipeline.vae
        return vae.encode(image).latent_dist.mode().float() * vae.config.scaling_factor

    def latents_of(self, batch: dict) -> Tensor:
        index = batch["index"].cpu()
        missing = ~self.encoded[index]
        if missing.any():
            self.latents[index[missing]] = self.encode(batch["image"][missing.to(self.device)]).cpu().half()
            self.encoded[index[missing]] = True
        return self.latents[index].to(self.device).float()

    def embed(self, captions: list[str]) -> Tensor:
        """Text embeddings (B, L, D)."""
        return self.trained["text_encoder"](self.tokens(captions)).last_hidden_state

    def loss(self, latents: Tensor, text: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Prediction losses (B,) at timesteps t (B,)."""
        alpha = self.alphabar[t].sqrt()[:, None, None, None]
        sigma = (1 - self.alphabar[t]).sqrt()[:, None, None, None]
        noisy = (alpha * latents + sigma * noise).contiguous(memory_format=torch.channels_last)
        predicted = self.network(noisy, t, text).sample.float()
        return (predicted - (alpha * noise - sigma * latents)).square().mean((1, 2, 3))

    def training_step(self, batch: dict, _: int) -> Tensor:
        latents, text = self.latents_of(batch), self.embed(batch["captions"])
        copies = 2 if self.trainer.datamodule.twins else 1
        count = len(latents) // copies
        # Stratified in t: less variance for the same mean.
        u = (torch.arange(count, device=self.device) + torch.rand(count, device=self.device)) / count
        t = (u**self.t_power * len(self.alphabar)).long()
        noise = torch.randn_like(latents[:count])
        loss = self.loss(latents, text, t.repeat(copies), noise.repeat(copies, 1, 1, 1)).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict, index: int) -> None:
        latents, text = self.encode(batch["image"]), self.embed(batch["captions"])
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        t = torch.linspace(0, 999, len(latents), device=self.device).long()
        losses = self.loss(latents, text, t, noise)
        wrong = self.loss(latents, text.flip(0), t, noise)
        self.log("val/loss", losses.mean(), prog_bar=True, batch_size=len(latents))
        self.log("val/rise_wrong_caption", wrong.mean() / losses.mean() - 1, prog_bar=True, batch_size=len(latents))
        if index == 0:
            # Averaged weights are in place inside the validation loop only.
            self.save_parts()


class ToyboxImageTower(ToyboxPart):
    """Trains the image tower on the symmetric contrastive loss of CLIP, the text tower being what it is.

    Equal captions in a batch count as equally right. The text tower's pooled output is the text's embedding.
    Source: Zhai et al. 2022, LiT, locked-image tuning, with the roles of the towers exchanged.
    """

    parts = ("image_encoder",)

    def __init__(self, folder: str = "runs/prior", lr: float = 1e-3, **rest):
        super().__init__(folder, lr, **rest)

    def configure_model(self) -> None:
        super().configure_model()
        self.temperature = torch.nn.Parameter(torch.tensor(math.log(10.0)))

    def loss(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Loss, and the share of images whose best caption in the batch is their own."""
        image = F.normalize(self.network(batch["image"]).image_embeds.float(), dim=-1)
        tokens = self.tokens(batch["captions"])
        with torch.no_grad():
            text = F.normalize(self.pipeline.text_encoder(tokens).pooler_output.float(), dim=-1)
        logits = self.temperature.exp().clamp(max=100) * image @ text.T
        same = (tokens[:, None] == tokens[None]).all(-1)
        target = same.float() / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        right = same.gather(1, logits.argmax(1, keepdim=True)).float().mean()
        return loss, right

    def training_step(self, batch: dict, _: int) -> Tensor:
        loss, right = self.loss(batch)
        self.log_dict({"train/loss": loss, "train/retrieval": right}, prog_bar=True)
        return loss

    def validation_step(self, batch: dict, index: int) -> None:
        loss, right = self.loss(batch)
        self.log_dict({"val/loss": loss, "val/retrieval": right}, prog_bar=True, batch_size=len(batch["captions"]))


def save_half(folder: str | Path, out: str | Path) -> None:
    """Saves the pipeline in `folder` as fp16 safetensors in `out`."""
    pipeline: DiffusionPipeline = load_pipeline(folder)
    pipeline.to(torch.float16).save_pretrained(out)
