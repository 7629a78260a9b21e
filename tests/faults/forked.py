"""Processes that start from one that has imported the library, which saves each some ten seconds."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lightning_modules.run.parent import die_with_parent


class Forked:
    """A process forked from this one, with what these suites use of subprocess.Popen.

    Args:
        work: What it does; its exit code is that of SystemExit, 0, or 1 after any other error.
        log: File that gets what it prints, None for where this process prints.
        environment: Its environment, None for that of this process.
        first: Called in it before the work.
    """

    def __init__(
        self,
        work: Callable[[], None],
        log: Path | None = None,
        environment: dict[str, str] | None = None,
        first: Callable[[], None] | None = None,
    ):
        self.work, self.log, self.environment, self.first = work, log, environment, first
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = multiprocessing.get_context("fork").Process(target=self._run)
        self.process.start()
        self.pid = self.process.pid

    def _run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # as a new program has them
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        die_with_parent(os.getppid())
        if self.log is not None:
            os.setsid()
            target = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(target, 1)
            os.dup2(target, 2)
        if self.environment is not None:
            os.environ.clear()
            os.environ.update(self.environment)
        if self.first is not None:
            self.first()
        self.work()

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; the exit code.

        Args:
            timeout: Seconds, after which the process is killed.

        Raises:
            TimeoutError: It did not end in time.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            os.kill(self.pid, signal.SIGKILL)
            self.process.join()
            raise TimeoutError
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends it SIGTERM."""
        self.send_signal(signal.SIGTERM)
