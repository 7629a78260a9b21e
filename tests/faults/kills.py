"""Kills small runs at random moments, resumes them, and compares them with a run that was left alone, bit by bit.

python tests/faults/kills.py [--count 20] [--first 0] [--run nerf] [--seed 0]

The runs have the stages' whole paths with a tiny untrained prior. They are forked from this process, so that a moment
of start-up comes after the imports; two ranks are processes of their own.

One half of the moments is drawn evenly over the time that the run left alone takes; the others follow a file that the
run has just written: a checkpoint, a picture, a video, phi, a mesh. The signal is SIGKILL in half of the cases, else
SIGTERM or SIGINT. Ends with 1 and names the case where a tensor, a picture, a mesh or a row of metrics differs,
something is left over, a resume fails, or more than a checkpoint interval is lost.
"""

import argparse
import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lightning_modules")]

from forked import Forked  # noqa: E402
from small_prior import TARGETS, save_small_prior  # noqa: E402
from small_runs import GEOMETRY, NERF, SMALL, TEXTURE, TINY, running_in  # noqa: E402

from common.finite import named_tensors  # noqa: E402
from lightning_modules import cli, dream  # noqa: E402
from lightning_modules.dream import SECONDS  # noqa: E402
from lightning_modules.run.folder import CONFIG, DREAM, LAST, PREVIOUS  # noqa: E402

EVERY, STEPS = 2, 6
PRIOR = "prior"  # folder of the prior, beside those of the runs
COMMON = [f"--trainer.max_steps={STEPS}", f"--checkpoint.every={EVERY}", "--trainer.log_every_n_steps=1"]
VALIDATED = [*COMMON, "--trainer.val_check_interval=3"]
IMAGE = [option for option in TINY if option.startswith("--trainer")]
IMAGE += ["--model.particles=2", "--model.particles_per_step=1", "--model.ancestral_scale=1"]
RUNS = {  # options of `vsd fit`
    "nerf": [*SMALL, *VALIDATED],
    "image": [*IMAGE, *COMMON],
    "geometry": [*GEOMETRY, *VALIDATED],
    "texture": [*TEXTURE, *VALIDATED],
    "two": [*SMALL, *VALIDATED, "--trainer.devices=2"],  # ranks of the NeRF stage
}
BEFORE = {"geometry": ["nerf"], "texture": ["nerf", "geometry"]}  # runs that a run starts from
SHORT = {
    stage: [*(option for option in RUNS[stage] if "particles" not in option), "--trainer.max_steps=4"]
    for stage in ("nerf", "geometry", "texture")
}
SIGNALS = {signal.SIGKILL: 2, signal.SIGTERM: 1, signal.SIGINT: 1}  # and their weights
TRACES = ("*.part", "last.ckpt", "*step*.png", "contact*", "turntable*", "image.png", "camera.safetensors", "mesh*")
# The metrics of a run, whose rows are compared apart, and what legitimately differs.
APART = {"metrics.csv", LAST.name, PREVIOUS.name, CONFIG, DREAM, SECONDS}


def cheap(place: Path) -> list[str]:
    """The options of the small prior."""
    return [f"--trainer.callbacks.model={place / PRIOR}", TARGETS]


def line_of(run: str, place: Path) -> list[str]:
    """The arguments of `vsd` that start a run."""
    config = Path(NERF).with_name(f"{'nerf' if run == 'two' else run}.yaml")
    if run == "image":  # an option of `trainer.callbacks` is the last guidance's, and it has two
        options = yaml.safe_load(config.read_text())
        for guidance in options["trainer"]["callbacks"]:
            guidance["init_args"]["model"] = str(place / PRIOR)
        config = place / config.name
        config.write_text(yaml.safe_dump(options))
    before = [f"--model.{name}={place / name}" for name in BEFORE.get(run, [])]
    return ["fit", "--config", str(config), *RUNS[run], *cheap(place), *before]


def start(run: str, folder: Path, place: Path) -> Forked | subprocess.Popen:
    """Starts a run in a folder, or resumes it; place: of the runs that it starts from, and of the prior."""
    log = folder.with_suffix(".log")
    if run == "dream":
        asked = ["--resume", str(folder)] if (folder / DREAM).exists() else ["a red mushroom", "--out", str(folder)]
        return Forked(partial(run_dream, asked, {s: [*line, *cheap(place)] for s, line in SHORT.items()}), log)
    options = line_of(run, place)
    if (folder / CONFIG).exists():
        options = ["fit", "--config", str(folder / CONFIG), "--ckpt_path", "last"]
    options = [*options, f"--trainer.default_root_dir={folder}"]
    if run != "two":
        return Forked(partial(cli.main, options), log)
    command, output = [sys.executable, "-m", "lightning_modules.cli", *options], open(log, "a")  # noqa: SIM115
    # A shell has its background jobs ignore SIGINT.
    first = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, preexec_fn=first)


def warm_up(run: str, place: Path) -> None:
    """Runs a step in this process, so that those forked from it need not fill what Python and the libraries cache."""
    for name in [] if run == "two" else ["nerf", "geometry", "texture"] if run == "dream" else [run]:
        for before in BEFORE.get(name, []):
            if not (place / before).exists():
                left_alone(before, place)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            cli.main([*line_of(name, place), "--trainer.max_steps=1", f"--trainer.default_root_dir={place / 'warm'}"])
        shutil.rmtree(place / "warm")


def run_dream(asked: list[str], more: dict[str, list[str]]) -> None:
    """Runs `dream`, whose stages are forked from it."""

    def stage(command: list[str], env: dict[str, str], preexec_fn: Callable[[], None]) -> Forked:
        return Forked(partial(cli.main, command[3:]), environment=env, first=preexec_fn)

    # Not subprocess.Popen itself, with which a stage starts the program that writes its videos.
    dream.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": stage})
    dream.main(asked, more)


def send(run: str, process: Forked | subprocess.Popen, number: int, draws: random.Random) -> str:
    """Sends a signal to a run, of two ranks to one of them; says to whom."""
    if run == "dream" and number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
        return ""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if run == "two" else []
    if children and draws.random() < 0.5:
        os.kill(int(children[0]), number)
        return " to rank 1"
    process.send_signal(number)
    return ""


def await_moment(
    process: Forked | subprocess.Popen, folder: Path, whole: Path, seconds: float, draws: random.Random
) -> str:
    """Waits for the moment of a case, and says what it was; whole: the run left alone, which has the same files."""
    if draws.random() < 0.5:
        moment = draws.uniform(0, seconds)
        time.sleep(moment)
        return f"after {moment:.1f} s"
    left = [trace for trace in TRACES if trace == "*.part" or len([*whole.rglob(trace)]) > 1]
    trace, count, late = draws.choice(left), draws.randint(1, 2), draws.uniform(0, 0.1)
    seen: set[Path] = set()
    while process.poll() is None and len(seen) < count:
        seen |= {path for path in folder.rglob(trace)}
        time.sleep(0.005)
    time.sleep(late)
    return f"{late:.2f} s after number {count} of {trace}"


def checkpoints(folder: Path) -> list[Path]:
    """Of the run, or the stages of a run of dream."""
    return sorted(folder.rglob(LAST.name))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoints."""
    read = {str(p.relative_to(folder)): torch.load(p, weights_only=True) for p in checkpoints(folder)}
    return dict(named_tensors(read))


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a run folder, but for the checkpoint before the last."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != PREVIOUS.name]
    return {str(p.relative_to(folder)): b"" if p.name in APART else p.read_bytes() for p in found}


def rows(folder: Path) -> dict[str, list[dict]]:
    """The rows of the files of metrics, without empty fields."""
    found = {}
    for path in folder.rglob("metrics.csv"):
        with open(path, newline="") as file:
            found[str(path.relative_to(folder))] = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    return found


def lost(folder: Path) -> int:
    """Steps that a run has made since its last checkpoint."""
    last = [int(row["step"]) + 1 for row in rows(folder).get("metrics.csv", []) if (row.get("step") or "").isdigit()]
    saved = torch.load(folder / LAST, weights_only=True)["global_step"] if (folder / LAST).exists() else 0
    return max(last, default=0) - int(saved)


def difference(folder: Path, whole: Path) -> str | None:
    """How a run's end differs from that of the run left alone."""
    for what, read in (("tensors", tensors), ("files", files), ("metrics", rows)):
        ours, theirs = read(folder), read(whole)
        if ours.keys() != theirs.keys():
            return f"other {what}: {sorted(ours.keys() ^ theirs.keys())[:5]}"
        same: Callable = torch.equal if what == "tensors" else lambda a, b: a == b
        if different := [name for name in ours if not same(ours[name], theirs[name])]:
            first = different[0]
            odd = [row for a, b in ((ours, theirs), (theirs, ours)) for row in a[first] if row not in b[first]]
            return f"{len(different)} {what} differ, the first {first}" + f": {odd}" * (what == "metrics")
    return None


def fault(run: str, folder: Path, place: Path, seconds: float, draws: random.Random) -> tuple[str | None, str]:
    """One case: what is wrong, None for nothing, and where the run was hit."""
    number = draws.choices([*SIGNALS], [*SIGNALS.values()])[0]
    process = start(run, folder, place)
    where = await_moment(process, folder, place / run, seconds, draws)
    over = process.poll() is not None
    where += send(run, process, number, draws) if not over else ", when it had ended"
    code = process.wait(timeout=120)
    where = f"{signal.Signals(number).name} {where}, code {code}"
    if not over and run != "dream" and (steps := lost(folder)) > EVERY:
        return f"{steps} steps lost", where
    if run == "two" and (left := running_in(folder, 60)):
        return f"{len(left)} processes are left", where
    if start(run, folder, place).wait(timeout=600):
        return "the resume failed", where
    return difference(folder, place / run), where


def left_alone(run: str, place: Path) -> float:
    """Runs a run; the seconds that it took."""
    begun = time.monotonic()
    if start(run, place / run, place).wait():
        sys.exit(f"the run left alone failed:\n{(place / f'{run}.log').read_text()[-2000:]}")
    return time.monotonic() - begun


def main() -> None:
    """Runs the cases and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="how many runs are hit (default: 20)")
    parser.add_argument("--first", type=int, default=0, help="number of the first, whose draws it names (default: 0)")
    parser.add_argument("--run", choices=[*RUNS, "dream"], default="nerf", help="which run (default: nerf)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has none of the threads of this one, and would wait for them
    wrong, begun, sys.argv = Counter(), time.monotonic(), ["vsd"]
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_small_prior(place / PRIOR)
        warm_up(options.run, place)
        seconds = left_alone(options.run, place)
        for case in range(options.first, options.first + options.count):
            run, draws = place / f"case{case}", random.Random(f"{options.seed} {case}")
            try:
                problem, where = fault(options.run, run, place, seconds, draws)
            except (TimeoutError, subprocess.TimeoutExpired):
                problem, where = "hangs", "somewhere"
            print(f"{options.run} {case} {where}: {problem or 'as if left alone'}", flush=True)
            if problem:
                wrong[problem] += 1
                print(run.with_suffix(".log").read_text()[-1500:], flush=True)
            shutil.rmtree(run, ignore_errors=True)
        good, spent = options.count - wrong.total(), time.monotonic() - begun
        print(f"{options.run}: {good} of {options.count} ended as the run left alone, in {spent:.0f} s", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
