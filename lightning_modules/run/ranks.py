"""The processes of a run on several devices: when one dies, the others end, with a line that names it."""

import atexit
import os
import signal
import sys
import threading
import time

from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from typing_extensions import override

POLL = 1.0  # seconds between looks at the processes
LATE = 8.0  # seconds within which the end of a process is seen after its connections have broken


class RankLauncher(_SubprocessScriptLauncher):
    """Starts a process for every rank but the first, which it runs in, and watches them.

    (Lightning's own watcher kills the first rank without a word that people see.)

    Attributes:
        resume: The command that resumes the run, for the line; "" where there is none.
    """

    resume = ""

    @override
    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        self.ranks, self.procs = self.procs, []  # Lightning watches procs
        atexit.register(self.kill, signal.SIGKILL)  # so that none tells of the end of this one
        threading.Thread(target=self._watch, daemon=True).start()

    @override
    def kill(self, signum: int) -> None:
        for process in getattr(self, "ranks", []):
            process.send_signal(signum)

    def wait(self) -> None:
        """Waits for the end of all other ranks, which may still export what they have trained."""
        for process in getattr(self, "ranks", []):
            process.wait()

    def dead(self) -> str | None:
        """What is to be said of the first rank that has failed, None where none has."""
        for rank, process in enumerate(getattr(self, "ranks", []), 1):
            code = process.poll()
            if code:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"rank {rank} ended with {how}" + (f"; resume: {self.resume}" if self.resume else "")
        return None

    def dead_soon(self) -> str | None:
        """`dead`, awaited for some seconds: connections break before the process has ended."""
        end = time.monotonic() + LATE
        while (words := self.dead()) is None and time.monotonic() < end:
            time.sleep(0.1)
        return words

    def _watch(self) -> None:
        while any(process.poll() is None for process in self.ranks) or self.dead():
            time.sleep(POLL)
            if (words := self.dead()) is not None:
                time.sleep(POLL)  # a first rank that sees it too says the same line
                self.end(words)

    def end(self, words: str) -> None:
        """Prints the line and ends all ranks, those that wait for the dead one included.

        Args:
            words: Of `dead`.
        """
        print(f"vsd: {words}", file=sys.stderr, flush=True)
        self.kill(signal.SIGKILL)
        os._exit(1)
