"""Files that are there whole or not at all, and checksums that tell whether they still are."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError

SUMS = "SHA256SUMS"  # of the files in a folder, as sha256sum -c reads it


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces it when the block ends, and vanishes when it fails.

    Args:
        path: The file to write. Its folder is created.

    Yields:
        The path to write to, in the same folder, so that the last step is a rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Whether the checksums of a ZIP archive, such as torch writes, fit its content.

    Args:
        path: Of the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return False


def write_checksums(folder: Path, files: list[Path]) -> None:
    """Writes SHA256SUMS into a folder.

    Args:
        folder: Of the files, at any depth.
        files: Their paths.
    """
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in sorted(files)]
    with atomic_write(folder / SUMS) as part:
        part.write_text("".join(lines), encoding="utf-8")


def require_checksums(folder: Path, key: str) -> None:
    """Checks the files of a folder that has SHA256SUMS.

    Args:
        folder: Of the files.
        key: The option that names the folder, for errors.

    Raises:
        InputError: A file is missing or differs.
    """
    if not (folder / SUMS).is_file():
        return
    for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            raise InputError(f"{key}: {file} is missing, which {SUMS} names; restore it, or delete {SUMS}")
        if _sha256(file) != expected:
            raise InputError(f"{key}: {file} is not what {SUMS} says, it is damaged or was changed; restore it")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
