"""Whether a broken command line is refused as it should be: code 2, one line that names the key, nothing left."""

import contextlib
import importlib
import io
import logging
import signal
import sys
import time
from pathlib import Path
from unittest.mock import patch

from broken_lines import COMMANDS, Case

from lightning_modules import cli, dream
from lightning_modules.run.stopping import AgreedStop

SECONDS = 60  # after which a case hangs
WORKING = 15  # after which a command of argparse has been let in
LONGEST = 600  # characters of a line


class LetIn(BaseException):
    """A line that was let in begins to work."""


class Hang(BaseException):
    """A case takes too long."""


def let_in(*_, **__):
    raise LetIn


def ring(*_):
    raise Hang


@contextlib.contextmanager
def nothing_works():
    """What was let in ends where the work would begin."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(AgreedStop, "on_train_batch_end", let_in))
        stack.enter_context(patch.object(dream, "run_stage", let_in))
        stack.enter_context(patch.object(sys, "argv", ["vsd"]))
        before = signal.signal(signal.SIGALRM, ring)
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, before)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder, with times and sizes."""
    return {str(p.relative_to(folder)): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in folder.rglob("*")}


def problem(case: Case, run: Path) -> str | None:
    """What is wrong with the answer to a case, None for nothing; `nothing_works` must hold.

    Args:
        case: The case.
        run: A run, which takes the place of RUN.
    """
    here = Path.cwd()
    (here / "file").touch()
    (here / "binary").write_bytes(bytes(range(256)))
    (here / "view.glb").touch()
    (here / "three" / "build").mkdir(parents=True, exist_ok=True)
    (here / "three" / "build" / "three.module.js").touch()
    if case.file is not None:
        (here / "broken.yaml").write_text(case.file, encoding="utf-8")
    kept, kept_run = listing(here), listing(run)
    args = [part.replace("RUN", str(run)) for part in case.args]
    main = cli.main if case.program == "vsd" else importlib.import_module(COMMANDS[case.program][0]).main
    error, code, begun = io.StringIO(), None, time.monotonic()
    logging.disable(logging.CRITICAL)
    signal.setitimer(signal.ITIMER_REAL, SECONDS if case.program == "vsd" else WORKING)
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            main(args)
    except SystemExit as ended:
        code = ended.code
    except LetIn:
        code = "let in"
    except Hang:
        code = "hang" if case.program == "vsd" else "let in"
    except Exception as defect:
        return f"traceback: {type(defect).__name__}: {' '.join(str(defect).split())[:150]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        logging.disable(logging.NOTSET)
    text = error.getvalue()
    if code in ("hang", "let in"):
        return f"{code} ({time.monotonic() - begun:.0f} s)"
    lines = [line for line in text.splitlines() if not line.startswith(("Seed set to", "["))]
    if code != 2:
        return f"code {code}: {text.splitlines()[-1:]}"
    if len(lines) != 1 or len(lines[0]) > LONGEST or not lines[0].startswith(f"{case.program}: "):
        return f"not one line: {lines[:3]}"
    if not any(w in lines[0] for w in (*case.named.split("|"), case.named.replace("trainer.callbacks", "guidance"))):
        return f"{case.named} is not named: {lines[0][:200]}"
    if listing(here) != kept or listing(run) != kept_run:
        changed = sorted(listing(here).items() ^ kept.items())
        return f"something is left: {changed[:3]}"
    return None
