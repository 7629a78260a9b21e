"""Which tensors have nan or infinity."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def named_tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts, lists and tuples, each with its keys joined by dots.

    Args:
        tree: Any value.
        name: Of the tree itself.

    Yields:
        Name and tensor.
    """
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def first_not_finite(tree: Any) -> str | None:
    """The name of the first tensor in a tree that has nan or infinity; waits for each device once.

    Args:
        tree: As for `named_tensors`.

    Returns:
        The name, None where all are finite.
    """
    verdicts: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in named_tensors(tree):
        if tensor.is_floating_point():
            verdicts.setdefault(tensor.device, []).append((name, tensor.isfinite().all()))
    for found in verdicts.values():
        if not (finite := torch.stack([verdict for _, verdict in found])).all():
            return found[finite.tolist().index(False)][0]
    return None
