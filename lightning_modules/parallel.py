"""Particle parallelism: every rank moves particles of its own, and all ranks train one score network.

Every rank holds all n particles of a stage but moves only its own. Where there are more ranks than particles, the ranks
of a particle average its gradient. Particles are broadcast before a checkpoint is written and before pictures are
rendered, so that a checkpoint holds everything and any number of ranks can resume from it.
"""

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from typing_extensions import override

from common.ranks import average
from lightning_modules.run.ranks import RankLauncher


class ParticleParallelStrategy(DDPStrategy):
    """Lightning's DDP without its wrapper, which would make all particles equal.

    The command `vsd` picks it where there are several devices. The stage's particles must be the same on all ranks at
    the start (stages seed them). Options are those of DDPStrategy.
    """

    broadcast_step = -1  # the trainer's step of the last broadcast

    @override
    def _configure_launcher(self) -> None:
        self._launcher = RankLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    def configure_ddp(self) -> None:
        """Leaves the stage unwrapped, and creates the groups of ranks that train the same particle."""
        n, world = self.lightning_module.order.n, self.world_size
        # Every rank must create every group.
        groups = [dist.new_group(list(range(i, world, n))) for i in range(n)] if world > n else []
        self.sharing = groups[self.global_rank % n] if groups else None

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the gradient of a particle over the ranks that train it.

        Args:
            closure_loss: Of this rank; not used.
        """
        if self.sharing is not None:
            stage = self.lightning_module
            parameters = [t for i in stage.order.own for t in stage.particle_tensors(i) if t.requires_grad]
            for parameter in parameters:
                if parameter.grad is None:  # a render that met nothing; the other ranks' may have
                    parameter.grad = torch.zeros_like(parameter)
            average([parameter.grad for parameter in parameters], self.sharing)

    @torch.no_grad()
    def broadcast_particles(self) -> None:
        """Copies every particle and its optimizer state from its first rank to all others, once per step.

        All ranks must call it.
        """
        stage = self.lightning_module
        if self.broadcast_step == stage.global_step:
            return  # a checkpoint, a validation and the end of training often share a step
        self.broadcast_step = stage.global_step
        for index in range(stage.order.n):
            tensors = stage.particle_tensors(index)
            owner = index % self.world_size
            mine = None
            if owner == self.global_rank:
                states = [[_on_cpu(o.state.get(t)) for t in tensors] for o in self.optimizers]
                mine = [t.detach().cpu() for t in tensors], states
            values, states = self.broadcast(mine, owner)
            if owner == self.global_rank:
                continue
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
            for optimizer, of_optimizer in zip(self.optimizers, states, strict=True):
                for tensor, state in zip(tensors, of_optimizer, strict=True):
                    optimizer.state.pop(tensor, None)
                    if state:
                        # The count of steps is a scalar that Adam wants on the CPU.
                        optimizer.state[tensor] = {k: v.to(tensor.device) if v.dim() else v for k, v in state.items()}

    def lightning_module_state_dict(self) -> dict:
        """The stage's state with all particles up to date. All ranks must call it, as Lightning does."""
        self.broadcast_particles()
        return super().lightning_module_state_dict()


def _on_cpu(state: dict | None) -> dict:
    return {key: value.detach().cpu() for key, value in (state or {}).items()}
