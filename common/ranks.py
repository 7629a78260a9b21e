"""Means over the ranks of a run."""

import torch
import torch.distributed as dist
from torch import Tensor


def average(tensors: list[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replaces tensors, of any shapes, by their means over the ranks of a group, by default all, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat, group=group)
    flat /= dist.get_world_size(group)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
