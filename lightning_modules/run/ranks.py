"""The processes of a run on several devices: when one dies, the others end, with a line that names it."""

import atexit
import os
import re
import signal
import sys
import threading
import time

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from typing_extensions import override

from common.errors import InputError
from lightning_modules.run.parent import FIRST_RANK

POLL = 1.0  # seconds between looks at the processes
LATE = 8.0  # seconds within which the end of a process is seen after its connections have broken


class RankLauncher(_SubprocessScriptLauncher):
    """Starts a process for every rank but the first, which it runs in, and watches them.

    (Lightning's own watcher kills the first rank without a word that people see.)

    Attributes:
        resume: The command that resumes the run, for the line; "" where there is none.
    """

    resume = ""

    @property
    def starts(self) -> bool:
        """Whether it starts the processes; srun and torchrun start them themselves."""
        # Not its creates_processes_externally, which turns true when Lightning has set LOCAL_RANK.
        return isinstance(self.cluster_environment, LightningEnvironment)

    @override
    def _call_children_scripts(self) -> None:
        os.environ[FIRST_RANK] = str(os.getpid())
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
        for process in self.ranks:
            process.kill()
        os._exit(1)


def require_all_ranks(trainer: pl.Trainer) -> None:
    """Checks that there are as many processes as devices; under SLURM, which starts them, there may be one alone.

    Args:
        trainer: Of the run.

    Raises:
        InputError: Devices would be idle.
    """
    devices = trainer.num_devices * trainer.num_nodes
    if trainer.world_size != devices:
        raise InputError(
            f"trainer.devices: {devices} on {trainer.num_nodes} node(s), but SLURM has started {trainer.world_size} "
            "task(s); start `vsd` by srun with --ntasks-per-node as many as devices, or unset SLURM_NTASKS"
        )


def lost(error: BaseException) -> str | None:
    """What is to be said of an error with which the connection to another rank has ended.

    Args:
        error: What was raised.

    Returns:
        The words, None for any other error.
    """
    if not (isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))):
        return None
    reason = re.sub(r"^\[\S*\] *", "", " ".join(str(error).split())).partition(". ")[0]  # without the line of C++
    return f"another rank has ended or does not answer ({reason[:150]}); the one that ended first says why"
