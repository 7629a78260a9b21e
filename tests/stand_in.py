"""A GPU's stand-in where there is none: PyTorch's meta device, whose tensors have a shape but no values.

    with StandIn() as device:
        ...  # build on "meta" and run
    assert device.waits == []

Operations that mix devices are refused as CUDA refuses them, and all that makes the host wait for a GPU is noted:
a value that is read, a copy that is not asynchronous, an index or a mask whose content must be known.
"""

import inspect
import linecache
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import Self

ROOT = Path(__file__).parents[1]
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
UNIQUE = (aten.unique_consecutive.default, aten._unique2.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class StandIn(TorchDispatchMode):
    """Runs what is inside with "meta" in the place of a GPU.

    Attributes:
        waits: One line per wait of the host: its reason, and the project's line that asked for it.
    """

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []
        self._generators: dict[int, torch.Generator] = {}  # the stand-in's own, which torch takes for the CPU's
        fused = ["cpu", "meta"]
        self._patches = [
            mock.patch.object(torch, "Generator", _generators_of(self._generators)),
            # What torch makes of Python's numbers is on the device before any operation is seen.
            *(mock.patch.object(torch, name, self._made(getattr(torch, name))) for name in ("tensor", "as_tensor")),
            mock.patch.object(Tensor, "new_tensor", self._made_like(Tensor.new_tensor)),
            mock.patch.object(Tensor, "__getitem__", self._indexed(Tensor.__getitem__)),
            mock.patch.object(Tensor, "__setitem__", self._indexed(Tensor.__setitem__)),
            mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: fused),
        ]

    def __enter__(self) -> Self:
        """Begins."""
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Ends."""
        super().__exit__(*error)
        for patch in self._patches:
            patch.stop()

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        """The waits of what runs inside, known at its end."""
        before, found = len(self.waits), []
        yield found
        found += self.waits[before:]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """One operation: its devices, its generator, and whether the host waits for it."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = kwargs.get("device") or (tensors[0].device if tensors else None)
        kwargs = self._draw(func, device, kwargs)
        if func in COPIES:
            return self._copy(func, args, kwargs, tensors)
        here = any(tensor.is_meta for tensor in tensors)
        if not here:
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self._note("value read")
            return 1
        if func in (aten.nonzero.default, aten.bincount.default):
            self._note(func.overloadpacket.__name__)
            size = (args[0].numel(), args[0].dim()) if func is aten.nonzero.default else args[2]
            return args[0].new_zeros(size, dtype=torch.long)
        if func in UNIQUE:
            self._note(func.overloadpacket.__name__)  # all of them differ
            flat = args[0].flatten()
            return flat, torch.empty_like(args[0], dtype=torch.long), torch.empty_like(flat, dtype=torch.long)
        if func is aten.repeat_interleave.Tensor:
            self._note("repeat_interleave")  # each of them once
            return torch.empty(args[0].shape, dtype=torch.long, device="meta")
        if func in INDEXING:
            args = args[0], [self._index(index) for index in args[1]], *args[2:]
            tensors = [args[0]]
        # A number of the CPU travels with the call, as an argument of the kernel.
        mixed = {tensor.device.type for tensor in tensors if tensor.dim() or tensor.is_meta}
        assert mixed == {"meta"}, f"{func}: on {' and '.join(sorted(mixed))}"
        return func(*args, **kwargs)

    def _made(self, make: Callable) -> Callable:
        """torch.tensor or as_tensor, which copy numbers to the device and wait until they are there."""

        def made(data: Any, *more: Any, **named: Any) -> Tensor:
            if not isinstance(data, Tensor) and torch.device(named.get("device") or "cpu").type == "meta":
                self._note("values from the CPU")
            return make(data, *more, **named)

        return made

    def _made_like(self, make: Callable) -> Callable:
        def made(like: Tensor, data: Any, *more: Any, **named: Any) -> Tensor:
            if torch.device(named.get("device") or like.device).type == "meta":
                self._note("values from the CPU")
            return make(like, data, *more, **named)

        return made

    def _indexed(self, access: Callable) -> Callable:
        """Reading or writing by an index, of which torch copies a list to the device."""

        def accessed(tensor: Tensor, index: Any, *value: Any) -> Any:
            parts = index if isinstance(index, tuple) else (index,)
            if tensor.is_meta and any(isinstance(part, list | range) for part in parts):
                self._note("index on the CPU")
            return access(tensor, index, *value)

        return accessed

    def _draw(self, func, device: torch.device | None, kwargs: dict) -> dict:
        generator = kwargs.get("generator")
        if generator is None:
            return kwargs
        claimed = "meta" if generator._cdata in self._generators else "cpu"
        assert claimed == torch.device(device).type, f"{func}: a generator of {claimed} draws on {device}"
        return kwargs | {"generator": None} if claimed == "meta" else kwargs

    def _copy(self, func, args: tuple, kwargs: dict, tensors: list[Tensor]) -> Tensor:
        source = tensors[-1].device
        target = tensors[0].device if func is aten.copy_.default else kwargs.get("device") or source
        if source == torch.device(target):
            return func(*args, **kwargs)
        asynchronous = kwargs.get("non_blocking") or (func is aten.copy_.default and args[2:3] == (True,))
        if not (asynchronous and source.type == "cpu"):
            self._note(f"copy from {source} to {target}")
        if source.type == "cpu":
            return func(*args, **kwargs)
        assert func is aten._to_copy.default, "copy_ from the device"
        return torch.zeros(tensors[0].shape, dtype=kwargs.get("dtype") or tensors[0].dtype)

    def _index(self, index: Tensor | None) -> Tensor | None:
        """An index whose values need not be known: as many as there could be."""
        if index is None:
            return None
        if not index.is_meta:
            self._note("index on the CPU")
        if index.dtype != torch.bool:
            return index.to("meta", non_blocking=True)
        assert index.dim() == 1, f"a mask of {index.dim()} axes"
        self._note("mask")
        return torch.zeros(len(index), dtype=torch.long, device="meta")

    def _note(self, what: str) -> None:
        frame = inspect.currentframe()
        while frame.f_back and (frame.f_code.co_filename == __file__ or not _is_ours(frame.f_code.co_filename)):
            frame = frame.f_back
        name, line = frame.f_code.co_filename, frame.f_lineno
        self.waits.append(f"{what}: {Path(name).name}:{line} {linecache.getline(name, line).strip()}")


def _generators_of(kept: dict[int, torch.Generator]) -> type:
    """What stands for torch.Generator, which refuses the stand-in's device; `kept` tells whose a generator is."""
    real = torch.Generator

    class Generator(real):
        def __new__(cls, device: torch.device | str = "cpu") -> real:
            generator = real()
            if torch.device(device).type == "meta":
                kept[generator._cdata] = generator
            return generator

    return Generator


def _is_ours(file: str) -> bool:
    return file.startswith(str(ROOT)) and "/.venv/" not in file
