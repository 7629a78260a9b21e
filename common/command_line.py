"""What the commands have in common: arguments that are refused in one line, paths that name something, exit codes."""

import argparse
import errno
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from common.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of a disk, which no other argument mends


class OneLineArguments(argparse.ArgumentParser):
    """Raises what is wrong with the arguments as InputError, in the place of printing the usage."""

    @override
    def error(self, message: str) -> NoReturn:
        raise InputError(" ".join(message.split())[:400])


@contextmanager
def one_line(program: str) -> Iterator[None]:
    """Ends the program with one line: with 2 for a wrong input, 1 for a full disk, 130 for Ctrl-C.

    Args:
        program: Its name.
    """
    try:
        yield
    except InputError as error:
        print(f"{program}: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        print(f"{program}: {words[:400]}; free it, or name another place", file=sys.stderr)
        sys.exit(1 if error.errno in FULL else 2)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)


def a_path(text: str) -> Path:
    """The path that an option names.

    Args:
        text: Its value.

    Raises:
        argparse.ArgumentTypeError: It names none.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("it is empty or no path; name a file or folder")
    try:
        Path(text).lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"'{text[:40]}...': {error.strerror}") from error
    return Path(text)


def require_place(key: str, folder: Path) -> None:
    """Checks that a folder can be made and written to, before hours are spent on what shall lie there; leaves nothing.

    Args:
        key: Of the option that names it.
        folder: The folder, which may be missing.

    Raises:
        InputError: It cannot.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(f"{key}: {folder} cannot be written to ({error.strerror}); name another place") from error
    finally:
        for path in missing:
            if path.is_dir():
                path.rmdir()
