"""How the commands of this package end for a wrong input."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import InputError


@contextmanager
def one_line(program: str) -> Iterator[None]:
    """Ends the program with 2 and one line for a wrong input.

    Args:
        program: Its name.
    """
    try:
        yield
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"{program}: {error.filename}: {error.strerror}; free it, or name another place", file=sys.stderr)
        sys.exit(2)
