"""The command `dream`: from a prompt to an object, through all stages, in one folder.

dream "a red mushroom" [--preset toybox] [--particles 1] [--seed 0] [--out FOLDER] [--log wandb] [--view]
      [--quiet] [-- OPTIONS]
dream "a red mushroom" --mesh FILE [...]
dream --resume FOLDER

With --mesh the texture stage alone runs, on the mesh of that file.
Every stage is a run of `vsd` in a folder of its own, FOLDER/STAGE; OPTIONS go to the `vsd fit` of each, such as
`-- --trainer.devices 4 -c configs/loggers/wandb.yaml`. FOLDER/dream.yaml holds what was asked for; a stage that has
finished leaves FOLDER/STAGE/finished and is not run again. FOLDER/STAGE/seconds holds how long it took.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic

import yaml

from common.errors import InputError
from common.files import atomic_write
from lightning_modules.dream_arguments import parse
from lightning_modules.run.folder import CONFIG, DREAM, resume_command
from lightning_modules.run.parent import die_with_parent
from lightning_modules.run.place import Place
from lightning_modules.wish import STAGES, Wish, config_of, options_of, place_of

FINISHED = "finished"
SECONDS = "seconds"  # of a stage, those before it was resumed included


def handed_on(stage: str, folder: Path) -> list[str]:
    """The options of `vsd` that name the runs of the previous stages.

    Args:
        stage: One of STAGES.
        folder: FOLDER, of the whole run.
    """
    before = [name for name in STAGES[: STAGES.index(stage)] if (folder / name).is_dir()]  # none for a given mesh
    return [f"--model.{name}={folder / name}" for name in before]


def run_stage(wish: Wish, place: Place, folder: Path, more: list[str]) -> int:
    """Runs a stage in FOLDER/STAGE, or resumes it, with the overrides that its record holds.

    Args:
        wish: What was asked for.
        place: Of the stage.
        folder: FOLDER, of the whole run.
        more: Further options of `vsd fit`.

    Returns:
        The exit code of `vsd`.
    """
    stage = place.name
    record = folder / stage / CONFIG
    # The previous stages are named anew when a run resumes: it may have been moved.
    more = [*handed_on(stage, folder), *more]
    if record.exists():
        options = ["--config", str(record), "--ckpt_path", "last"]
    else:
        options = [*options_of(wish, stage), f"--trainer.default_root_dir={folder / stage}"]
    # A process of its own, so that the next stage has all the memory. Ctrl-C reaches it from the terminal. Modules in
    # the working directory are none of its business.
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", *options, *more]
    environment = os.environ | {"PYTHONSAFEPATH": "1"} | place.environment()
    # Windows refuses the option, and it is Linux alone that knows what to do.
    first = partial(die_with_parent, os.getpid()) if sys.platform == "linux" else None
    process = subprocess.Popen(command, env=environment, preexec_fn=first)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
        return code if code >= 0 else 128 - code  # as a shell says it
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def dream(wish: Wish, folder: Path, more: dict[str, list[str]] | None = None, quiet: bool = False) -> int:
    """Runs the stages that have not finished yet.

    Args:
        wish: What was asked for.
        folder: Of the run.
        more: Further options of `vsd fit`, by stage.
        quiet: Whether no progress is told.

    Returns:
        An exit code.
    """
    seconds, more = {}, more or {}
    for stage in wish.stages:
        if not (folder / stage / FINISHED).exists():
            start = monotonic()
            code = run_stage(wish, place_of(wish, stage, more, quiet), folder, more.get(stage, []))
            spent = monotonic() - start
            add_seconds(folder / stage, spent)
            if code:
                return code
            (folder / stage / FINISHED).touch()
            seconds[stage] = spent
    if seconds:
        parts = ", ".join(f"{stage} {time:.0f} s" for stage, time in seconds.items())
        print(f"{parts}; {sum(seconds.values()):.0f} s in all")
    meshes = (folder / wish.stages[-1]).glob("mesh-particle*.glb")
    for file in sorted(meshes, key=lambda file: (len(file.name), file.name)):
        print(os.path.relpath(file))
    return 0


def add_seconds(folder: Path, seconds: float) -> None:
    """Adds to the time that a stage has taken.

    Args:
        folder: Of the stage; where there is none, the stage came to nothing and nothing is written.
        seconds: What to add.
    """
    if folder.is_dir():
        before = float((folder / SECONDS).read_text()) if (folder / SECONDS).exists() else 0.0
        with atomic_write(folder / SECONDS) as part:
            part.write_text(f"{before + seconds:.1f}\n")


def main(
    args: list[str] | None = None,
    more: dict[str, list[str]] | None = None,
    at_end: Callable[[Path], None] | None = None,
) -> None:
    """Runs the command; exits with 2 and one line when an input is wrong.

    Args:
        args: Arguments of the command, None for the program's.
        more: Further options of `vsd fit`, by stage.
        at_end: Called with the folder of the run when all its stages have finished.
    """
    try:
        wish, folder, options = parse(args)
        for stage in wish.stages:
            config_of(wish.preset, stage, wish.mesh is not None)
        folder.reserve()
    except InputError as error:
        print(f"dream: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        sys.exit(2)
    try:
        if options.resume is None:
            words = {key: value for key, value in asdict(wish).items() if value is not None}
            with atomic_write(folder.path / DREAM) as part:
                part.write_text(yaml.safe_dump(words, allow_unicode=True), encoding="utf-8")
        if options.view:
            more = {stage: [*(more or {}).get(stage, []), "--view"] for stage in wish.stages}
        code = dream(wish, folder.path, more, options.quiet)
        if not any((folder.path / stage / CONFIG).exists() for stage in wish.stages):
            folder.discard()
    except (KeyboardInterrupt, OSError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        words = "interrupted" if interrupted else f"{error.filename or folder.path}: {error.strerror}"
        if (folder.path / DREAM).exists():
            words += f"; resume: {resume_command(folder.path / wish.stages[0])}"
        else:
            folder.discard()
        print(f"dream: {words}", file=sys.stderr)
        sys.exit(130 if interrupted else 1)
    finally:
        folder.release()
    if code == 0 and at_end is not None:
        at_end(folder.path)
    sys.exit(code)


if __name__ == "__main__":
    main()
