"""Training of the toybox prior's UNet and text tower, part 2 of 3."""

from collections.abc import Callable

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from typing_extensions import override

from common.checks import require_positive, require_range
from common.compiled import compile_checked
from toybox.prior.latents import encode, load_latents
from toybox.prior.muon import Muon, split
from toybox.prior.part import ToyboxPart
from toybox.prior.stable_targets import Pools, posterior_mean, v_of_mean
from toybox.prior.text_margin import captions_by_view, margin_loss


class ToyboxUnet(ToyboxPart):
    """Trains the UNet and the text tower on the mean squared error of v.

    The text tower learns along with the UNet, as in latent diffusion: a tower that was trained to match pictures
    first, by contrast, had found left and right alike, and a UNet on it painted either by chance. Where a batch holds
    mirror images (data.twins), both get the same t and noise: what they have in common cancels in what tells them
    apart. All latents are encoded before the first step (see `latents`), so that data.images may be false.

    t / T is u^p for a uniform u. Below 1, p puts more of the steps where the words decide, above 1 where the surface
    does; p goes linearly from `t_power` to `late_t_power` over the training.

    Args:
        folder: Of the pipeline, as `save_pretrained` writes it, with a trained autoencoder.
        lr: Learning rate of Muon, and of AdamW for what Muon does not take (see `muon`).
        t_power: p at the first step, above 0.
        late_t_power: p at the last step, above 0.
        references: R, pictures of the same caption in a stable target; 0 for plain targets.
        stable_from: First t with stable targets (see `stable_targets`), in 0 ... 1000. At lower t the picture is
            certain, and both targets are the same.
        text_margin: Cosine of the pooled texts of different captions above which it costs (see `text_margin`), in
            -1 ... 1; 1 for no such term.
        compile: Compile the UNet. Its gradients are compared with the plain UNet's on the first batch.
        warmup: Steps in which the learning rate rises to `lr`.
        decay: Steps in which it falls to 0 at the end.
        seed: Of what the steps draw and of the latents' backgrounds, >= 0.

    Raises:
        InputError: An option is out of range.
    """

    parts = ("unet", "text_encoder")

    def __init__(
        self,
        folder: str = "runs/prior",
        lr: float = 2e-3,
        t_power: float = 0.6,
        late_t_power: float = 1.3,
        references: int = 127,
        stable_from: int = 600,
        text_margin: float = 0.5,
        compile: bool = False,
        warmup: int = 100,
        decay: int = 500,
        seed: int = 0,
    ):
        super().__init__(folder, lr, warmup, decay, seed)
        require_positive("model.t_power", t_power)
        require_positive("model.late_t_power", late_t_power)
        require_range("model.references", references, 0, 10_000)
        require_range("model.stable_from", stable_from, 0, 1000)
        require_range("model.text_margin", text_margin, -1, 1)
        self.t_power, self.late_t_power = t_power, late_t_power
        self.references, self.stable_from, self.compile_unet = references, stable_from, compile
        self.text_margin = text_margin
        self.compiled: list[Callable] = []  # in a list, so that it is no module of this one

    @override
    def configure_model(self) -> None:
        super().configure_model()
        if self.trainer.strategy.root_device.type == "cpu":
            # The backward of torch's fused attention in bf16 takes six times that of plain matrix products there.
            self.network.set_attn_processor(AttnProcessor())
            self.pipeline.text_encoder.set_attn_implementation("eager")
            # Group norms of channels last take ten times as long there, more than the convolutions gain.
            self.network.to(memory_format=torch.contiguous_format)

    @override
    def optimizer(self) -> torch.optim.Optimizer:
        return Muon(*split(self.trained), self.lr)

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = self.trainer.datamodule
        if self.trainer.is_global_zero:
            self._load_latents()
        self.trainer.strategy.barrier()
        self.latents = self._load_latents().to(self.device)  # (2 N, C, h, w)
        self.alphabar = self.pipeline.scheduler.alphas_cumprod.to(self.device)
        self.pools = Pools(data.train_renders, self.device) if self.references else None

    def _load_latents(self) -> Tensor:
        data = self.trainer.datamodule
        with self.trainer.precision_plugin.forward_context():
            return load_latents(self.pipeline.vae, data.train_renders, self.seed, data.cache)

    def embed(self, captions: list[str]) -> Tensor:
        """Text embeddings (B, L, D)."""
        return self.trained["text_encoder"](self.tokens(captions)).last_hidden_state

    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and v (B, C, h, w) of latents at timesteps t (B,)."""
        alpha = self.alphabar[t].sqrt()[:, None, None, None]
        sigma = (1 - self.alphabar[t]).sqrt()[:, None, None, None]
        return alpha * latents + sigma * noise, alpha * noise - sigma * latents

    def errors(self, noisy: Tensor, target: Tensor, t: Tensor, text: Tensor, unet: Callable | None = None) -> Tensor:
        """Squared errors of the prediction.

        Args:
            noisy: (B, C, h, w) x_t.
            target: (B, C, h, w) v.
            t: (B,) timesteps.
            text: (B, L, D) embeddings.
            unet: The network's compiled form, by default the network.

        Returns:
            (B,) means over the values of a latent.
        """
        predicted = (self.network if unet is None else unet)(noisy, t, text).sample  # in the layout of the weights
        return (predicted.float() - target).square().mean((1, 2, 3))

    def power(self) -> float:
        """The exponent p of this step."""
        progress = self.trainer.global_step / self.trainer.estimated_stepping_batches
        return self.t_power + (self.late_t_power - self.t_power) * progress

    @torch.no_grad()
    def stable(
        self, target: Tensor, noisy: Tensor, latents: Tensor, captions: list[str], t: Tensor, draws: torch.Generator
    ) -> Tensor:
        """Replaces targets by stable ones where t is at least `stable_from`.

        Args:
            target: (B, C, h, w) v of the latents.
            noisy: (B, C, h, w) x_t.
            latents: (B, C, h, w) x_0.
            captions: B of them.
            t: (B,) timesteps.
            draws: The generator of the references.

        Returns:
            (B, C, h, w).
        """
        rows = torch.nonzero(t >= self.stable_from)[:, 0]
        if self.pools is None or not len(rows):
            return target
        drawn = self.pools.draw([captions[row] for row in rows.tolist()], self.references, draws)  # (B', R)
        candidates = torch.cat([latents[rows][:, None], self.latents[drawn].float()], 1)  # (B', R + 1, C, h, w)
        alphabar = self.alphabar[t[rows]]
        mean = posterior_mean(noisy[rows], candidates, alphabar)
        return target.index_copy(0, rows, v_of_mean(noisy[rows], mean, alphabar))

    def margin_loss(self, draws: torch.Generator) -> Tensor:
        """The excess of the cosines of pooled texts over `text_margin`, for captions that the step draws."""
        if self.text_margin >= 1:
            return torch.zeros((), device=self.device)
        tokens = self.tokens(captions_by_view(draws))
        return margin_loss(self.trained["text_encoder"](tokens).pooler_output, tokens, self.text_margin)

    @override
    def training_step(self, batch: dict, _: int) -> Tensor:
        draws, captions = self.draws(), batch["captions"]
        latents = self.latents[batch["index"]].float()
        copies = 2 if self.trainer.datamodule.twins else 1
        count = len(latents) // copies
        # Stratified in t: less variance for the same mean.
        u = torch.arange(count, device=self.device) + torch.rand(count, device=self.device, generator=draws)
        steps = len(self.alphabar)
        t = ((u / count) ** self.power() * steps).long().clamp(max=steps - 1).repeat(copies)
        noise = torch.randn(count, *latents.shape[1:], device=self.device, generator=draws).repeat(copies, 1, 1, 1)
        noisy, target = self.noised(latents, t, noise)
        target = self.stable(target, noisy, latents, captions, t, draws)

        def loss(unet: Callable | None) -> Tensor:
            return self.errors(noisy, target, t, self.embed(captions), unet).mean()

        if self.compile_unet and not self.compiled:
            self.compiled = [compile_checked(self.network, dict(self.trained.named_parameters()), loss)]
        value = loss(self.compiled[0] if self.compiled else None)
        margin = self.margin_loss(draws)
        self.log_dict({"train/loss": value, "train/text_margin": margin}, prog_bar=True)
        return value + margin

    @override
    def validation_step(self, batch: dict, index: int) -> None:
        latents, text = encode(self.pipeline.vae, batch["image"]), self.embed(batch["captions"])
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        t = torch.linspace(0, 999, len(latents), device=self.device).long()
        noisy, target = self.noised(latents, t, noise)
        losses, wrong = (self.errors(noisy, target, t, words) for words in (text, text.flip(0)))
        self.log("val/loss", losses.mean(), prog_bar=True, batch_size=len(latents))
        self.log("val/rise_wrong_caption", wrong.mean() / losses.mean() - 1, prog_bar=True, batch_size=len(latents))
        if index == 0:
            # Averaged weights are in place inside the validation loop only.
            self.save_parts()
