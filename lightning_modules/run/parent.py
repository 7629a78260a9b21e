"""Processes that end with their parent."""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # of Linux's prctl
FIRST_RANK = "VSD_FIRST_RANK"  # environment variable: process id of the first rank, which has started this one


def die_with_parent(parent: int) -> None:
    """Has Linux kill this process when its parent ends, however that ends; other systems know nothing like it.

    Args:
        parent: Process id of the parent, which may have ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


class FirstRank:
    """The first rank, as the ranks that it has started see it.

    Attributes:
        resume: The command that resumes the run, "" where there is none yet.
    """

    resume = ""

    @classmethod
    def watch(cls) -> None:
        """Has this rank end when its parent has, the second rank with a line; the others wait for the first in vain."""
        # The first may have ended while this one was starting, which then has another parent from the beginning on.
        parent = int(os.environ.get(FIRST_RANK, os.getppid()))
        threading.Thread(target=cls._end_with, args=(parent,), daemon=True).start()

    @classmethod
    def _end_with(cls, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if os.environ.get("LOCAL_RANK") == "1":
            name = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "rank 0"
            resume = f"; resume: {cls.resume}" if cls.resume else ""
            print(f"vsd: {name} ended without a word{resume}", file=sys.stderr, flush=True)
        os._exit(1)
