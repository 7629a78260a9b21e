"""The run folder: one folder per run, in which everything lies that the run writes.

runs/NAME/STAMP/ with NAME derived from the prompt, or the folder that trainer.default_root_dir names. In it are
config.yaml, checkpoints/last.ckpt and the one before it, previous.ckpt, metrics.csv, pictures and videos. A run is
resumed in its own folder.
"""

import os
import re
import shlex
import shutil
import unicodedata
from datetime import datetime
from pathlib import Path

from common.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where a run folder is not locked
    fcntl = None

CONFIG = "config.yaml"
LAST = Path("checkpoints") / "last.ckpt"
PREVIOUS = LAST.with_name("previous.ckpt")  # the one before it
DREAM = "dream.yaml"  # beside the folders of the stages that `dream` runs


def name_of(prompt: str | None) -> str:
    """A folder name for a prompt.

    Args:
        prompt: Any text, or None.

    Returns:
        At most 40 characters of a-z, 0-9 and "-", never empty.
    """
    letters = unicodedata.normalize("NFKD", prompt or "").encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", letters).strip("-")[:40].strip("-") or "unnamed"


def requeued() -> bool:
    """Whether SLURM has started this job before, or torchrun these processes."""
    return any(int(os.environ.get(f"{system}_RESTART_COUNT", 0)) > 0 for system in ("SLURM", "TORCHELASTIC"))


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, those that Lightning writes when SLURM ends a job included.

    Args:
        folder: Of the run.
    """
    return [*(folder / LAST.parent).glob("*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")]


class RunFolder:
    """Where a run writes.

    Without a path it is fresh: runs/NAME/STAMP below the working directory, where the stamp is the time, or under
    SLURM the job, which finds its folder again when it is requeued.

    Args:
        path: The folder, None for a fresh one.
        prompt: From which a fresh one gets its name.
        key: The option that names the folder, for errors.
    """

    def __init__(self, path: Path | None, prompt: str | None, key: str = "trainer.default_root_dir"):
        job = os.environ.get("SLURM_JOB_ID")
        stamp = f"job-{job}" if job else f"{datetime.now():%Y%m%d-%H%M%S}"
        self.fresh = path is None
        self.path = Path("runs").absolute() / name_of(prompt) / stamp if path is None else path.expanduser().absolute()
        self.key = key
        self._created: list[Path] | None = None  # folders to remove should the run come to nothing
        self._lock: int | None = None

    def reserve(self, alone: bool = True) -> None:
        """Creates the folder; a fresh one gets a number where another run has the name.

        Args:
            alone: Whether no other process may reserve it like this until this one releases it or ends.

        Raises:
            InputError: It cannot be created or written to, or another process has reserved it.
        """
        stem, number = self.path.name, 1
        shared = not self.fresh or requeued()
        while True:
            try:
                missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
                self.path.mkdir(parents=True, exist_ok=shared)
                break
            except OSError as error:
                if shared or not isinstance(error, FileExistsError):
                    raise InputError(
                        f"{self.key}: {self.path} cannot be made ({error.strerror}); name another folder"
                    ) from error
            number += 1
            self.path = self.path.with_name(f"{stem}-{number}")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise InputError(f"{self.key}: {self.path} is not writable; name another folder")
        if alone:
            self._lock_or_refuse()
        if not any(self.path.iterdir()):
            self._created = missing

    def _lock_or_refuse(self) -> None:
        if fcntl is None:
            return
        # The folder itself is locked, for as long as this process lives, so that there is no file to leave.
        lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise InputError(
                f"{self.key}: a run is going on in {self.path}; wait for its end, stop it, or name another folder"
            ) from error
        except OSError:  # a network's file system without locks
            os.close(lock)
            return
        self._lock = lock
        for part in self.path.rglob("*.part"):
            part.unlink(missing_ok=True)  # of a run that was killed

    def release(self) -> None:
        """Lets other processes reserve the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Undoes `reserve` and removes what was written since, for a run that ended before it trained."""
        if self._created is None or not self.path.is_dir():
            return
        for part in self.path.iterdir():
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink()
        for folder in self._created:
            if not any(folder.iterdir()):  # other runs may be there by now
                folder.rmdir()


def resume_command(folder: Path) -> str:
    """The command that resumes a run.

    Args:
        folder: Of the run.
    """
    if (folder.parent / DREAM).exists():
        return f"dream --resume {shlex.quote(os.path.relpath(folder.parent))}"
    return f"vsd fit --config {shlex.quote(os.path.relpath(folder / CONFIG))} --ckpt_path last"
