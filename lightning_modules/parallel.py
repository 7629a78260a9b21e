"""Particle parallelism: every rank moves particles of its own, and all ranks train one score network.

Every rank holds all n particles of a stage but moves only its own. Where there are more ranks than particles, the ranks
of a particle average its gradient. The others' particles are handed out before a checkpoint is written and before
pictures are made, so that a checkpoint holds everything and goes on with any number of ranks.
"""

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from common.ranks import average


class ParticleParallelStrategy(DDPStrategy):
    """Lightning's DDP without its wrapper, which would make all particles alike. The command `vsd` picks it by itself.

    The stage's particles must be the same on all ranks at the start (stages seed them).
    """

    handed_out = -1  # the trainer's step at which all ranks last had everything

    def configure_ddp(self) -> None:
        """Leaves the stage as it is, and makes the groups of ranks that share a particle."""
        n, world = self.lightning_module.order.n, self.world_size
        # Every rank must make every group.
        groups = [dist.new_group(list(range(i, world, n))) for i in range(n)] if world > n else []
        self.sharing = groups[self.global_rank % n] if groups else None

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the gradient of a particle that ranks share."""
        if self.sharing is not None:
            stage = self.lightning_module
            parameters = [t for i in stage.order.own for t in stage.particle_tensors(i) if t.requires_grad]
            for parameter in parameters:
                if parameter.grad is None:  # a render that met nothing; the other ranks' may have
                    parameter.grad = torch.zeros_like(parameter)
            average([parameter.grad for parameter in parameters], self.sharing)

    @torch.no_grad()
    def hand_out(self) -> None:
        """Brings every particle and its optimizer's state from its first rank to all others, once a step."""
        stage = self.lightning_module
        if self.handed_out == stage.global_step:
            return  # a checkpoint, a validation and the end of training often share a step
        self.handed_out = stage.global_step
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
        """As it is in a checkpoint: with all particles up to date. All ranks must call it, as Lightning does."""
        self.hand_out()
        return super().lightning_module_state_dict()

    def on_validation_start(self) -> None:
        self.hand_out()

    def on_train_end(self) -> None:
        self.hand_out()


def _on_cpu(state: dict | None) -> dict:
    return {key: value.detach().cpu() for key, value in (state or {}).items()}
