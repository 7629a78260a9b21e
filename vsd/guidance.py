"""VSDGuidance: score distillation as a Lightning callback, a thin user of the core.

List it under trainer.callbacks. It loads the prior, offers itself to the stage (its `guidances` list), trains the score
network after every particle step, keeps its own state in the checkpoint and, when training ends, exports phi to the
stage's `run_folder`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from typing_extensions import override

from common.checks import require_positive, require_range
from common.errors import InputError
from common.randomness import generator
from common.ranks import average
from vsd.compiling import compile_unets
from vsd.embeddings import embed, free_text_encoders
from vsd.encoding import resized
from vsd.gradients import Reduction, Weight
from vsd.health import SURE
from vsd.prior import TOYBOX, DiffusionPrior
from vsd.prior_files import unchecked
from vsd.prompts import Prompts, PromptTable
from vsd.replay import Replay
from vsd.sampling import ancestral_samples
from vsd.savings import Savings, load_encoder, out_of_memory
from vsd.score_distillation import Conditions, Kind, ScoreDistillation
from vsd.score_trainer import ScoreSettings, ScoreTrainer, build_phi
from vsd.timesteps import Timesteps
from vsd.views import View, ViewSectors, eight_sectors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CHECK_EVERY = 50  # steps between looks at the count of skipped gradients, each of which waits for the device
NOISE, UPDATE, TIME, POSTERIOR, REPLAY = range(5)  # streams of random numbers; UPDATE is ScoreTrainer's


class VSDGuidance(pl.Callback):
    """Guides a stage's particles with a prior, by VSD, SDS, ESD or CSD. Several guidances of a stage add up.

    Args:
        prompt: y, what to make.
        timesteps: From which range t is drawn, over a particle's steps.
        model: The prior: "toybox", a folder saved with save_pretrained, or a hub id.
        kind: "vsd" (ProlificDreamer), "sds" (DreamFusion), "esd" (Wang et al. 2024) or "csd" (Yu et al. 2023).
        scale: Of the prior's classifier-free guidance; 1 for none.
        rescale: How far the guided prediction gets the contrast of the unguided one, in [0, 1] (Lin et al. 2023).
        esd_scale: Of "esd"'s guidance over phi's camera; 1 is "vsd", 0 uses phi without a camera alone.
        clamp: The largest element of the gradient, > 0; null for no limit.
        score: How phi is built, trained and used.
        negative: Prompt that guidance leads away from.
        overrides: Whole prompts for some view words, in the place of "prompt, words".
        views: Words that the prompt gets by the camera's direction; null for the same prompt all around, as for a
            scene; "eight" for the toybox's eight sectors of 45 degrees.
        dtype: Of the prior; "bfloat16" takes half the memory.
        nan_limit: Gradients that may be skipped because they are not finite before training stops.
        seed: Of t, noise and phi's first weights, which are a function of (seed, rank, step).
        perp_neg: How strongly the prior is led away from the other views: 0 for not at all, 1 for Perp-Neg's
            published weights. The view's own prompt then lies between the nearest two of front, side and back.
        weight: w(t): "sigma2" (ProlificDreamer), "none", "snr" (differences of x_0) or "dmd" (DMD's normaliser).
        reduction: Of the loss: "batch", the sum over elements per sample (ProlificDreamer), or "mean" over elements.
        factor: Of this guidance in the sum of a stage's guidances.
        name: Tells guidances of the same kind and prompt apart.
        savings: What a step saves in time and memory.
        encode_sample: Whether a render's latents are drawn from the autoencoder's posterior, as in ProlificDreamer's
            code, else its mode is taken.

    Raises:
        InputError: An option is out of range, the model does not load, or the stage cannot be guided.
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
        views: ViewSectors | Literal["eight"] | None = "eight",
        dtype: Literal["float32", "bfloat16"] = "float32",
        nan_limit: int = 20,
        seed: int = 0,
        perp_neg: float = 0.0,
        weight: Weight = "sigma2",
        reduction: Reduction = "batch",
        factor: float = 1.0,
        name: str = "",
        savings: Savings | None = None,
        encode_sample: bool = False,
    ):
        for option, value in (("scale", scale), ("perp_neg", perp_neg), ("nan_limit", nan_limit), ("factor", factor)):
            require_range(f"guidance.{option}", value, 0)
        require_range("guidance.rescale", rescale, 0, 1)
        require_range("guidance.esd_scale", esd_scale, 0)
        require_positive("guidance.clamp", clamp)
        require_range("guidance.seed", seed, 0)
        if perp_neg and views is None:
            raise InputError(f"guidance.perp_neg: {perp_neg:g} without views; set guidance.views, or perp_neg to 0")
        if reduction == "none":
            raise InputError("guidance.reduction: 'none' gives a loss per sample; a stage needs 'batch' or 'mean'")
        views = eight_sectors() if views == "eight" else views
        self.prompts = Prompts(prompt, negative, views, overrides or {})
        self.model, self.dtype, self.nan_limit, self.seed = model, DTYPES[dtype], nan_limit, seed
        self.timesteps, self.kind, self.perp_neg, self.factor, self.name = timesteps, kind, perp_neg, factor, name
        self.score, self.savings = score or ScoreSettings(), savings or Savings()
        self.encode_sample = encode_sample
        self.options = {
            "kind": kind,
            "scale": scale,
            "rescale": rescale,
            "esd_scale": esd_scale,
            "clamp": clamp,
            "weight": weight,
            "reduction": reduction,
            "phi_mix": self.score.phi_mix,
            "shared_forward": self.score.shared_forward,
        }
        self.core: ScoreDistillation | None = None
        self.trainer: ScoreTrainer | None = None
        self.replay = Replay(self.score.replay) if self.score.replay else None
        self.calls = 0
        self._warned = False
        self._restored: dict | None = None

    @property
    def state_key(self) -> str:
        """Names this guidance's state in a checkpoint."""
        return self._generate_state_key(kind=self.kind, prompt=self.prompts.prompt, name=self.name)

    @property
    def label(self) -> str:
        """Names this guidance's figures in the logs."""
        return f"{self.kind}_{self.name}" if self.name else self.kind

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if str(trainer.precision).startswith("16"):
            raise InputError("trainer.precision: fp16 underflows in score distillation; use bf16-mixed or 32-true")
        if not hasattr(pl_module, "guidances"):
            raise InputError(f"trainer.callbacks: {type(pl_module).__name__} is no stage that VSDGuidance can guide")
        if any(guidance.state_key == self.state_key for guidance in pl_module.guidances):
            raise InputError(
                f"trainer.callbacks: two guidances of kind {self.kind} for '{self.prompts.prompt}'; give one of them a "
                "name (init_args.name)"
            )
        prior = DiffusionPrior.load(self.model, trainer.strategy.root_device, self.dtype, **self.savings.of_prior)
        if self.model != TOYBOX and trainer.global_rank == 0 and (words := unchecked(Path(self.model))) is not None:
            print(words, flush=True)
        if self.savings.encoder is not None:
            prior.encoder = load_encoder(self.savings.encoder, prior)
        self.prepare(prior, trainer.global_rank, average if trainer.world_size > 1 else None)
        free_text_encoders(prior)
        if self._restored is not None:
            self.load_state_dict(self._restored)
        pl_module.guidances.append(self)

    def prepare(
        self, prior: DiffusionPrior, rank: int = 0, average: Callable[[list[Tensor]], None] | None = None
    ) -> None:
        """Embeds the prompts, and builds phi and its trainer.

        Args:
            prior: The prior.
            rank: Of this process, from which its random numbers follow.
            average: Replaces phi's gradients by their means over all ranks; None for one rank.
        """
        self.rank, self.table = rank, PromptTable(prior, self.prompts)
        network, self._plain = None, self.table.plain
        if self.kind in ("vsd", "esd"):
            network = build_phi(prior, self.score, self.seed, self.savings.checkpointing)
            if self.score.model is not None:
                self._plain = embed(network.base, [self.prompts.prompt])
                free_text_encoders(network.base)
            self.trainer = ScoreTrainer(network, self.score, self.seed, rank, average)
        if self.savings.compile:
            compile_unets(prior, network, self.table.plain, self._plain)
        self.core = ScoreDistillation(prior, network, **self.options)

    @property
    def image_size(self) -> int:
        """Pixels of a side of the images that the prior was trained on."""
        return self.core.prior.image_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of a latent."""
        return self.core.prior.latent_shape

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents (B, C, h, w)."""
        return self.core.prior.decode(latents)

    def conditions(self, view: View) -> Conditions:
        """What B renders are to show."""
        return self.table.conditions(view, self._plain, self.perp_neg)

    def particle_loss(self, images: Tensor, view: View, steps: Tensor) -> Tensor:
        """The loss whose gradient moves the particles, times this guidance's factor.

        Args:
            images: (B, 3, H, W) in [-1, 1], of any size, resized to the prior's; or latents.
            view: Of the B renders.
            steps: (B,), on the CPU: how many steps the particle of each render has finished.

        Returns:
            A scalar.
        """
        prior = self.core.prior
        if not prior.is_latent(images):
            images = resized(images, self.image_size)
        t = self.timesteps.sample(steps, prior.steps, self._draws(TIME, "cpu")).to(prior.device, non_blocking=True)
        shape = len(images), *self.latent_shape
        eps = torch.randn(shape, generator=self._draws(NOISE, prior.device), device=prior.device)
        self.calls += 1
        warm = self.trainer is not None and bool((steps < self.score.warm_start).all())
        full = self.savings.full_encoder(steps)
        posterior = self._draws(POSTERIOR, prior.device) if self.encode_sample else None
        kind = "sds" if warm else None
        with self._fits():
            loss = self.core.loss(
                images, self.conditions(view), t, eps, kind=kind, full_encoder=full, posterior=posterior
            )
        self._cameras = view.cameras
        return self.factor * loss

    def _draws(self, stream: int, device: torch.device | str) -> torch.Generator:
        return generator(device, self.seed, self.rank, stream, self.calls)

    def update_score(self) -> Tensor | None:
        """K steps of phi on the latents of the last particle step; the last loss, or None where none was made."""
        if self.trainer is None or self.core.latents is None:
            return None
        latents, cameras = self.core.latents, self._cameras
        if self.replay is not None:
            self.replay.add(latents, cameras)
        if self.calls % self.score.every:
            self.core.take_forward()  # which would keep its graph
            return None
        if self.replay is not None:
            latents, cameras = self.replay.draw(len(latents), self._draws(REPLAY, latents.device))
        self.trainer.adapt(self.core.health)
        with self._fits():
            return self.trainer.update(latents, self._plain.repeat(len(latents)), cameras, self.core.take_forward())

    @contextmanager
    def _fits(self) -> Iterator[None]:
        """An input error with what takes less, where the device's memory ends."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise out_of_memory(self.core.prior, self.score, self.savings) from error

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, torch.OutOfMemoryError) and self.core is not None:
            # Of the stage's own passes, such as the backward.
            raise out_of_memory(self.core.prior, self.score, self.savings) from exception

    @property
    def skipped(self) -> Tensor:
        """How many gradients of the particles and of phi were not finite, on the device."""
        return self.core.skipped + (0 if self.trainer is None else self.trainer.skipped)

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        loss = self.update_score()
        if loss is not None:
            pl_module.log(f"train/{self.label}_score_loss", loss)
            for name, figure in self.core.health.figures().items():
                pl_module.log(f"train/{self.label}_{name}", figure)
            if self.score.adaptive_lr:
                pl_module.log(f"train/{self.label}_phi_lr", self.trainer.rate)
        if self.calls % CHECK_EVERY:
            return
        skipped = int(trainer.strategy.reduce(self.skipped.clone(), reduce_op="sum"))  # all ranks stop together
        if skipped > self.nan_limit:
            raise InputError(
                f"guidance: {skipped} gradients were not finite in {self.calls} steps; lower "
                "guidance.scale or the stage's learning rates, or set guidance.dtype to float32"
            )
        if trainer.is_global_zero:
            self._report_health(SURE)

    def _report_health(self, sure: int) -> None:
        """Prints once what ails phi, where it has been observed for long enough."""
        if self.trainer is None or self._warned:
            return
        warning = self.core.health.warning(sure)
        if warning is not None:
            print(warning, flush=True)
            self._warned = True

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.trainer is None or not trainer.is_global_zero:
            return
        self._report_health(SURE // 5)
        trained = [guidance for guidance in pl_module.guidances if guidance.trainer is not None]
        name = "phi" if len(trained) == 1 else f"phi-{trained.index(self)}"
        self.trainer.network.export(pl_module.run_folder / name)

    def sample(self, count: int, view: View, scale: float) -> Tensor:
        """Ancestral samples of the prior, (count, 3, H, W) in [0, 1] on the CPU, of one view at a guidance scale."""
        text = self.table.of_cameras(view.azimuth, view.elevation).repeat(count)
        draws = torch.Generator().manual_seed(self.seed)
        return ancestral_samples(self.core.prior, text, self.table.negative.repeat(count), scale, generator=draws)

    @override
    def state_dict(self) -> dict:
        if self.core is None:
            return {}
        state = {"calls": self.calls, "skipped": int(self.core.skipped)}
        if self.replay is not None:
            state["replay"] = self.replay.state_dict()
        if self.trainer is None:
            return state
        return state | {"score": self.trainer.state_dict(), "health": self.core.health.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict) -> None:
        # Lightning restores callbacks before or after setup, depending on the call.
        self._restored = state_dict
        if self.core is None:
            return
        self.calls = state_dict["calls"]
        self.core.skipped.fill_(state_dict["skipped"])
        if self.replay is not None:
            self.replay.load_state_dict(state_dict.get("replay", {}), self.core.prior.device)
        if self.trainer is not None:
            if "score" not in state_dict:
                raise InputError(
                    "guidance.kind: the checkpoint has no score network; resume with the kind it was begun with"
                )
            self.trainer.load_state_dict(state_dict["score"])
            if "health" in state_dict:  # not in checkpoints of earlier versions
                self.core.health.load_state_dict(state_dict["health"])
