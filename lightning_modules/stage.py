"""What all stages have in common: particles, guidances, the run folder and the pictures in it."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from common.errors import InputError
from common.finite import first_not_finite
from common.randomness import generator
from lightning_modules.broken_gradients import CHECK_EVERY, BrokenGradients
from lightning_modules.parallel import ParticleParallelStrategy
from lightning_modules.particles import RoundRobin
from lightning_modules.run.checkpoints import mark, require_mark, require_weights
from lightning_modules.run.hardware import untested
from lightning_modules.run.loggers import MetricsFile, show_file
from lightning_modules.run.pictures import save_picture
from vsd.guidance import VSDGuidance


class Stage(pl.LightningModule):
    """A stage of n particles of which m move per step, guided by the VSDGuidance callbacks among the trainer's.

    Args:
        particles: Number of particles, n >= 1.
        particles_per_step: Particles that a step moves, m in 1 ... n.
        seed: Of the particles' order and of what the stage draws, >= 0.

    Raises:
        InputError: n or m is impossible.
    """

    def __init__(self, particles: int, particles_per_step: int, seed: int):
        super().__init__()
        self.order = RoundRobin(particles, particles_per_step, seed)
        self.broken_gradients = BrokenGradients(particles)
        self.seed = seed
        self.guidances: list[VSDGuidance] = []
        self.loaded_step = 0  # of the checkpoint that the particles come from

    def particle_tensors(self, index: int) -> list[Tensor]:
        """The parameters and buffers of a particle that a checkpoint holds.

        Args:
            index: Of the particle.
        """
        return list(self.particles[index].state_dict(keep_vars=True).values())

    def require_guidance(self) -> None:
        """Checks that a callback has registered itself in `guidances`.

        Raises:
            InputError: There is none.
        """
        if not self.guidances:
            raise InputError("trainer.callbacks: no guidance; list vsd.guidance.VSDGuidance with a prompt")

    def require_inputs(self, checkpoint: str | None) -> None:
        """Checks the files that the stage is to read; called before anything large is loaded.

        Args:
            checkpoint: From which the run resumes, None for a run from the start.

        Raises:
            InputError: One of them is missing or of no use.
        """

    @override
    def setup(self, stage: str) -> None:
        batches = self.trainer.accumulate_grad_batches
        if stage == "fit" and batches != 1:
            raise InputError(
                f"trainer.accumulate_grad_batches: {batches}; a step of a stage is one batch, whose cameras and "
                "particles are functions of the step; leave it at 1"
            )
        # Ranks that are started on their own read the clock on their own.
        self.run_folder = Path(self.trainer.strategy.broadcast(self.trainer.default_root_dir))
        self.order.set_rank(self.trainer.global_rank, self.trainer.world_size)

    @property
    def trained_steps(self) -> int:
        """Steps that the particles have been trained for; outside training, Lightning's global_step is 0."""
        return max(self.global_step, self.loaded_step)

    @override
    def on_fit_start(self) -> None:
        if line := untested(self.device):
            self.print_rank_zero(line)
        self.warn_of_cut_schedule()

    def warn_of_cut_schedule(self) -> None:
        """Prints a line where training ends before a particle has made all the steps of its guidance's schedule."""
        end = self.trainer.max_steps
        steps = max((guidance.timesteps.steps for guidance in self.guidances), default=0)
        whole = self.order.step_after(steps)
        if not 0 <= end < whole:
            return
        particles = f"each of {self.order.n} particles" if self.order.n > 1 else "the particle"
        line = f"warning: trainer.max_steps: in {end} steps {particles} makes {self.order(end)[1]} of the {steps} "
        line += f"steps of its schedule (timesteps.steps); all of them need --trainer.max_steps={whole}"
        milestones = [m.step for m in getattr(self.trainer.datamodule, "milestones", []) if m.step > 0]
        if milestones and self.order.steps_per_round > 1:
            line += f", and the steps of data.milestones times {self.order.steps_per_round}"
        for step in milestones:
            if step >= end:
                line += f"; the resolution of step {step} is not reached"
        self.print_rank_zero(line)

    @override
    def on_train_start(self) -> None:
        for logger in self.loggers:
            if isinstance(logger, MetricsFile):
                logger.drop_from(self.global_step)

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for index in self.order(self.global_step)[0]:
            self.broken_gradients.leave_out(index, self.particle_tensors(index))

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_step % CHECK_EVERY == 0:
            self.check_gradients()

    def check_gradients(self, end: bool = False) -> None:
        """Stops training where a particle's gradients are broken. All ranks must call it.

        Args:
            end: Whether no step follows.

        Raises:
            InputError: Too many were.
        """
        counts = self.broken_gradients.counts.to(self.device).clone()
        counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        warning = self.broken_gradients.check(counts, self.trainer.callback_metrics, end)
        if warning is not None:
            self.print_rank_zero(warning)

    @override
    def on_train_end(self) -> None:
        self.check_gradients(end=True)

    @override
    def on_train_epoch_end(self) -> None:
        # The strategy's own hook at the end of training comes after the stage's, which may show all particles.
        if isinstance(self.trainer.strategy, ParticleParallelStrategy):
            self.trainer.strategy.broadcast_particles()

    def log_validation(self, metrics: dict[str, Tensor | float]) -> None:
        """Logs means over the batches of validation, at the step that the particles have.

        Args:
            metrics: Values of one batch.
        """
        if self.trainer.state.fn != TrainerFn.FITTING:
            metrics = metrics | {"step": float(self.trained_steps)}  # Lightning takes the step from here
        self.log_dict(metrics, batch_size=1)

    def print_rank_zero(self, line: str) -> None:
        """Prints a line, once for all ranks.

        Args:
            line: What to print.
        """
        if self.trainer.is_global_zero:
            print(line, flush=True)

    def keep_picture(self, key: str, image: Tensor, name: str) -> None:
        """Writes an image into the run folder and shows it in the loggers.

        Args:
            key: Its name in the loggers.
            image: (H, W, 3) in [0, 1].
            name: Path of the file below the run folder.
        """
        save_picture(image, self.run_folder / name)
        self.show(key, name)

    def show(self, key: str, name: str) -> None:
        """Shows a picture, an MP4 video or a GLB mesh of the run folder in the loggers, on the first rank.

        Args:
            key: Its name in the loggers.
            name: Path of the file below the run folder.
        """
        if self.trainer.is_global_zero:
            show_file(self.loggers, key, self.run_folder / name, self.trained_steps)

    @override
    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.require_finite(checkpoint)
        mark(checkpoint, self)
        checkpoint["vsd"]["rounds"] = self.order.state()

    def require_finite(self, checkpoint: dict) -> None:
        """Checks that what was trained is finite, so that no checkpoint is replaced by one that is not.

        Args:
            checkpoint: That is to be written, on every rank.

        Raises:
            InputError: Something in it has nan or infinity.
        """
        keys = [guidance.state_key for guidance in self.guidances]
        trained = {key: checkpoint.get(key) for key in ("state_dict", "optimizer_states")}  # one may hold weights alone
        trained["callbacks"] = {key: checkpoint.get("callbacks", {}).get(key) for key in keys}
        # The first rank has all optimizers' states, the others those of their own particles.
        name = self.trainer.strategy.broadcast(first_not_finite(trained))
        if name is None:
            return
        ours = {id(tensor): index for index in range(self.order.n) for tensor in self.particle_tensors(index)}
        named = self.state_dict(keep_vars=True).get(name.removeprefix("state_dict."))
        owner = f"particle {ours[id(named)]}: " if id(named) in ours else ""
        raise InputError(
            f"{owner}{name} has nan or infinity at step {self.global_step}; the checkpoint before is kept, lower the "
            "learning rates and resume"
        )

    @override
    def on_load_checkpoint(self, checkpoint: dict) -> None:
        require_mark(checkpoint, type(self).__name__)
        require_weights(checkpoint["state_dict"], self)
        for guidance in self.guidances:  # which train only where there are some
            if guidance.state_key not in checkpoint.get("callbacks", {}):
                raise InputError(
                    f"ckpt_path: the checkpoint has no state of the guidance {guidance.kind} for "
                    f"'{guidance.prompts.prompt}'; resume with the config.yaml of the run"
                )
        self.loaded_step = checkpoint["global_step"]
        self.order.resume(checkpoint["vsd"]["rounds"], self.loaded_step)

    def generator(self, *stream: int) -> torch.Generator:
        """A generator on the stage's device, a function of (seed, rank, step) and the stream.

        Args:
            stream: Numbers that tell apart what is drawn in one step.
        """
        return generator(self.device, self.seed, self.global_rank, self.global_step, *stream)
