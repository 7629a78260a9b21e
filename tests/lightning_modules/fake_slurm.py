"""Tasks as srun starts them, without a SLURM: processes of this machine with its variables."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from small_runs import PATHS

SCONTROL = '#!/bin/sh\necho "$@" >> asked\n'  # writes down what it is asked for


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def plain_environment() -> dict[str, str]:
    """The environment without a SLURM that these tests may run in; one thread each, since several round differently."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | PATHS | {"OMP_NUM_THREADS": "1"}


class Job:
    """The tasks of a job, each of which is a `vsd` with the same arguments.

    Args:
        folder: In which they run.
        arguments: Of `vsd`.
        nodes: Number of nodes.
        per_node: Tasks of each.
        environment: Further variables.
    """

    def __init__(self, folder: Path, arguments: list[str], nodes: int, per_node: int, **environment: str):
        folder.mkdir(exist_ok=True)
        (folder / "scontrol").write_text(SCONTROL)
        (folder / "scontrol").chmod(0o755)
        job = {"JOB_ID": "77", "JOB_NAME": "prolific", "NTASKS": nodes * per_node, "NTASKS_PER_NODE": per_node}
        variables = plain_environment() | {
            f"SLURM_{key}": str(value) for key, value in (job | {"NNODES": nodes}).items()
        }
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        variables |= {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
        command = [sys.executable, "-m", "lightning_modules.cli", *arguments]
        self.tasks = []
        for rank in range(nodes * per_node):
            place = {"PROCID": rank, "LOCALID": rank % per_node, "NODEID": rank // per_node}
            own = variables | {f"SLURM_{key}": str(value) for key, value in place.items()}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            self.tasks.append(subprocess.Popen(command, env=own, cwd=folder, **pipes))

    def wait(self, seconds: float = 400) -> tuple[list[int], list[str], list[str]]:
        """Waits for the end of all tasks.

        Args:
            seconds: After which they are killed.

        Returns:
            Exit codes, what they printed, and what they said on stderr.
        """
        end = time.monotonic() + seconds
        said = []
        try:
            for task in self.tasks:
                said.append(task.communicate(timeout=max(end - time.monotonic(), 0.1)))
        finally:
            for task in self.tasks:
                task.kill()
        return [task.returncode for task in self.tasks], [out for out, _ in said], [err for _, err in said]
