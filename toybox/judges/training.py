"""What the judges' training has in common: how it starts, and the cache of trained networks."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from common.cache import load_weights
from common.files import atomic_write

Network = TypeVar("Network", bound=nn.Module)


class Training(NamedTuple):
    """A judge at the start of its training."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator


def start_training(build: Callable[[], nn.Module], lr: float, steps: int, seed: int) -> Training:
    """Builds a network, its optimizer and its schedule; deterministic by seed.

    Args:
        build: What builds the network, with random weights.
        lr: The largest learning rate.
        steps: Batches.
        seed: Of the first weights and of the generator, from which order and disturbances are drawn.

    Returns:
        All of them, the network in training mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 2), pct_start=0.1)
    return Training(network, optimizer, schedule, np.random.default_rng(seed))


def cached_network(path: Path, build: Callable[[], Network], train: Callable[[], Network]) -> Network:
    """A trained network from a file, or a new one, put there.

    Args:
        path: Of the file; a damaged one is named and replaced.
        build: What builds the network that the file's weights fit.
        train: What trains a new one.

    Returns:
        The network, in evaluation mode.
    """
    network = build()
    if load_weights(path, network):
        return network.to(memory_format=torch.channels_last).eval()
    network = train().eval()
    with atomic_write(path) as temporary:
        torch.save(network.state_dict(), temporary)
    return network
