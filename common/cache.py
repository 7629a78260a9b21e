"""Where the project keeps what is expensive to make and cheap to keep: renders, embeddings, latents, samples.

The rule for all of these files: one that is damaged is made anew, and a line says so. Files of tensors are safetensors
with a checksum of all that they hold; one that an older version wrote has none and is read as it is.
"""

import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import InputError
from common.files import atomic_write, is_intact

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """VSD_CACHE, or ~/.cache/vsd."""
    return Path(os.environ.get("VSD_CACHE") or Path.home() / ".cache" / "vsd")


def cached(path: Path, make: Callable[[], dict[str, Tensor]], settings: str = "") -> dict[str, Tensor]:
    """Tensors from a file of the cache, or new ones, put there.

    Args:
        path: Of the file.
        make: Gives the tensors.
        settings: What they depend on beside what the path names.

    Raises:
        InputError: The file is whole and has other settings.
    """
    tensors = read_cached(path, settings)
    if tensors is None:
        tensors = make()
        write_cached(path, tensors, settings)
    return tensors


def read_cached(path: Path, settings: str = "") -> dict[str, Tensor] | None:
    """Tensors from a file of the cache, None where there is none or it is damaged, of which a line tells.

    Args:
        path: Of the file.
        settings: That the file was written with.

    Raises:
        InputError: The file is whole and has other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, SafetensorError) as error:
        tell_damaged(path, str(error))
        return None
    # Else of a version without checksums, where no bit of a checksum has been flipped either.
    if found.keys() - {"settings", "format"} and found.get("checksum") != _checksum(tensors, found.get("settings", "")):
        tell_damaged(path, "its checksum does not fit")
        return None
    if found.get("settings", "") != settings:
        raise InputError(
            f"{path}: made by another version or with other settings ({found.get('settings')}); delete it to make it "
            "anew"
        )
    return tensors


def write_cached(path: Path, tensors: dict[str, Tensor], settings: str = "") -> bool:
    """Writes a file of the cache; where that fails, a line says so and nothing is left.

    Args:
        path: Of the file.
        tensors: What it holds, on any device.
        settings: What they depend on beside what the path names.

    Returns:
        Whether it was written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"settings": settings, "checksum": _checksum(tensors, settings)}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        log.warning("%s is not cached (%s); set VSD_CACHE to a folder that can be written", path.name, error)
        return False
    return True


def load_weights(path: Path, network: nn.Module) -> bool:
    """Loads the weights of a network from a file of torch in the cache, without running anything in it.

    Args:
        path: Of the file.
        network: Changed in place.

    Returns:
        Whether it was loaded; False where there is no file, or a damaged or foreign one, of which a line tells.
    """
    if not path.exists():
        return False
    try:
        if not is_intact(path):
            raise ValueError("its checksums do not fit")
        network.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:
        # torch raises a dozen types for a file that is not what it should be.
        tell_damaged(path, " ".join(str(error).split())[:120])
        return False
    return True


def tell_damaged(path: Path, reason: str) -> None:
    """Says that a file of the cache is made anew.

    Args:
        path: Of the file.
        reason: What is wrong with it.
    """
    log.warning("%s is damaged (%s); it is made anew", path, reason)


def _checksum(tensors: dict[str, Tensor], settings: str) -> str:
    """CRC-32 of names, types, shapes and values, which finds every flipped bit."""
    total = zlib.crc32(settings.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"
