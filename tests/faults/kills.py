"""Kills small runs at random moments, resumes them, and compares them with a run that was left alone, bit by bit.

python tests/faults/kills.py [--count 20] [--stage nerf] [--seed 0]

A moment is drawn evenly over the time that the run left alone takes, so that start-up, steps, checkpoints, validation
and the turntable are all met; the signal is SIGKILL in half of the cases, else SIGTERM or SIGINT. Ends with 1 and names
the case where a tensor differs, something is left over, a resume fails, or more than a checkpoint interval is lost.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lightning_modules")]

from small_runs import NERF, SMALL, TINY  # noqa: E402

from common.finite import named_tensors  # noqa: E402
from lightning_modules.run.folder import CONFIG, LAST  # noqa: E402

EVERY, STEPS = 3, 20
QUIET = [option for option in TINY if option.startswith("--trainer")]
IMAGE = [*QUIET, "--model.particles=2", "--model.particles_per_step=1"]
STAGES = {
    "nerf": ["--config", NERF, *SMALL, "--trainer.val_check_interval=10"],
    "image": ["--config", str(Path(NERF).with_name("image.yaml")), *IMAGE],
}
SIGNALS = {signal.SIGKILL: 2, signal.SIGTERM: 1, signal.SIGINT: 1}  # and their weights


def start(stage: str, folder: Path) -> subprocess.Popen:
    """Starts the run in a folder, or resumes it."""
    options = [*STAGES[stage], f"--trainer.max_steps={STEPS}", f"--checkpoint.every={EVERY}"]
    if (folder / CONFIG).exists():
        options = ["--config", str(folder / CONFIG), "--ckpt_path", "last"]
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", *options, f"--trainer.default_root_dir={folder}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = open(folder.with_suffix(".log"), "a")  # noqa: SIM115
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoint."""
    return dict(named_tensors(torch.load(folder / LAST, weights_only=True)))


def files(folder: Path) -> set[str]:
    """What lies in a run folder, the checkpoint before the last apart."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        "checkpoints/previous.ckpt"
    }


def fault(stage: str, folder: Path, whole: Path, seconds: float, draws: random.Random) -> tuple[str | None, str]:
    """One case: what is wrong, None for nothing, and where the run was hit."""
    number = draws.choices([*SIGNALS], [*SIGNALS.values()])[0]
    process, moment = start(stage, folder), draws.uniform(0, seconds)
    time.sleep(moment)
    process.send_signal(number)
    code = process.wait(timeout=120)
    step = int(torch.load(folder / LAST, weights_only=True)["global_step"]) if (folder / LAST).exists() else 0
    where = f"{signal.Signals(number).name} after {moment:.1f} s, code {code}, checkpoint of step {step}"
    if start(stage, folder).wait(timeout=300):
        return "the resume failed", where
    ours, theirs = tensors(folder), tensors(whole)
    if ours.keys() != theirs.keys():
        return f"other tensors: {sorted(ours.keys() ^ theirs.keys())[:3]}", where
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if different:
        return f"{len(different)} tensors differ, the first {different[0]}", where
    if files(folder) != files(whole):
        return f"other files: {sorted(files(folder) ^ files(whole))[:5]}", where
    return None, where


def main() -> None:
    """Runs the cases and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="how many runs are hit (default: 20)")
    parser.add_argument("--stage", choices=STAGES, default="nerf", help="which stage (default: nerf)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals (default: 0)")
    options = parser.parse_args()
    draws, wrong, begun = random.Random(options.seed), Counter(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        if start(options.stage, whole).wait():
            sys.exit(f"the run left alone failed:\n{whole.with_suffix('.log').read_text()[-2000:]}")
        seconds = time.monotonic() - begun
        for case in range(options.count):
            folder = Path(place) / f"case{case}"
            problem, where = fault(options.stage, folder, whole, seconds, draws)
            print(f"{case + 1}/{options.count} {where}: {problem or 'as if left alone'}", flush=True)
            if problem:
                wrong[problem] += 1
                print(folder.with_suffix(".log").read_text()[-1500:], flush=True)
        good, spent = options.count - wrong.total(), time.monotonic() - begun
        print(f"{good} of {options.count} ended as the run left alone, in {spent:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
