"""A process that ends with its parent."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def die_with_parent(parent: int) -> None:
    """Has Linux kill this process when its parent ends, however that ends; other systems know nothing like it.

    Args:
        parent: Process id of the parent, which may have ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
