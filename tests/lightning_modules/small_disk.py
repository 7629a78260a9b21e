"""A small file system of its own, for faults of the disk; it needs the right to mount."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount(*arguments: str) -> str | None:
    """Runs mount; what it says where it fails."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip() or str(done.returncode)


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """Mounts a file system of some KiB on a folder; skips the test where that is not permitted."""
    folder.mkdir(exist_ok=True)
    if (words := mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder))) is not None:
        pytest.skip(f"NOT TESTED, no file system may be mounted here: {words}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, kib: int) -> None:
    """Gives the file system another size."""
    assert mount("-o", f"remount,size={kib}k", str(folder)) is None


def read_only(folder: Path, on: bool = True) -> None:
    """Lets nothing be written to the file system, not even by root, or lets it again."""
    assert mount("-o", f"remount,{'ro' if on else 'rw'}", str(folder)) is None
