"""Particle parallelism: every rank moves particles of its own, and all ranks train one score network.

Every rank holds all n particles of a stage but moves only its own, and has the optimizer's state of those alone. The
ranks that move a particle together average its gradient. Particles are broadcast before a checkpoint is written and
before pictures are rendered, and the first rank collects the optimizers' states for a checkpoint, so that it holds
everything and any number of ranks can resume from it.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from common.errors import InputError
from common.ranks import average
from lightning_modules.run.ranks import RankLauncher


class ParticleParallelStrategy(DDPStrategy):
    """Lightning's DDP without its wrapper, which would make all particles equal.

    The command `vsd` picks it where there are several devices. The stage's particles must be the same on all ranks at
    the start (stages seed them).

    Args:
        process_group_backend: What the ranks talk through: "nccl" for NVIDIA and AMD GPUs, "gloo" for CPUs; null for
            the one that fits the devices.
        timeout: How long a rank waits for the others before the run fails, H:MM:SS. The first waits of a run include
            compiling and downloads.

    Raises:
        InputError: The timeout is not positive.
    """

    broadcast_step = -1  # the trainer's step of the last broadcast

    def __init__(
        self,
        process_group_backend: Literal["nccl", "gloo"] | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ):
        if timeout <= timedelta(0):
            raise InputError(f"trainer.strategy.timeout: {timeout} is no time; leave it out, or say 0:30:00")
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)

    @override
    def _configure_launcher(self) -> None:
        self._launcher = RankLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    def configure_ddp(self) -> None:
        """Leaves the stage unwrapped, and creates the groups of ranks that move a particle together."""
        # Every rank must create every group.
        self.groups = {i: dist.new_group(r) for i, r in self.lightning_module.order.together.items() if len(r) > 1}

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the gradients of the particles that this step moves on several ranks, over these.

        Args:
            closure_loss: Of this rank; not used.
        """
        stage = self.lightning_module
        for index in stage.order(stage.global_step)[0]:
            if (group := self.groups.get(index)) is None:
                continue
            parameters = [t for t in stage.particle_tensors(index) if t.requires_grad]
            for parameter in parameters:
                if parameter.grad is None:  # a render that met nothing; the other ranks' may have
                    parameter.grad = torch.zeros_like(parameter)
            average([parameter.grad for parameter in parameters], group)

    @torch.no_grad()
    def broadcast_particles(self) -> None:
        """Copies every particle from its first rank to all others, once per step. All ranks must call it."""
        stage = self.lightning_module
        if self.broadcast_step == stage.global_step:
            return  # a checkpoint, a validation and the end of training often share a step
        self.broadcast_step = stage.global_step
        for index in range(stage.order.n):
            tensors, owner = stage.particle_tensors(index), index % self.world_size
            mine = [t.detach().cpu() for t in tensors] if owner == self.global_rank else None
            values = self.broadcast(mine, owner)
            if owner != self.global_rank:
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)

    @override
    def lightning_module_state_dict(self) -> dict:
        # All ranks must call it, as Lightning does.
        self.broadcast_particles()
        return super().lightning_module_state_dict()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict:
        # As above. The states of other ranks' particles are only passed on: the first rank has all of them, on the CPU.
        saved, numbers = optimizer.state_dict(), self._numbers(optimizer)
        for index in range(self.lightning_module.order.n):
            mine = None
            if index % self.world_size == self.global_rank:
                mine = {i: _on_cpu(saved["state"][i]) for i in numbers[index] if i in saved["state"]}
            states = self.broadcast(mine, index % self.world_size)
            if self.is_global_zero:
                saved["state"] |= states
        saved["state"] = dict(sorted(saved["state"].items()))
        return saved

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        own, kept = self.lightning_module.order.own, []
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = self._numbers(optimizer)
            others = {i for index in numbers.keys() - set(own) for i in numbers[index]}
            kept.append(saved | {"state": {i: state for i, state in saved["state"].items() if i not in others}})
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": kept})

    def _numbers(self, optimizer: Optimizer) -> dict[int, list[int]]:
        """The numbers by which an optimizer's state names the parameters of every particle."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        number, stage = {id(p): i for i, p in enumerate(parameters)}, self.lightning_module
        return {
            index: [number[id(t)] for t in stage.particle_tensors(index) if id(t) in number]
            for index in range(stage.order.n)
        }


def _on_cpu(state: dict) -> dict:
    return {key: value.detach().cpu() for key, value in state.items()}
