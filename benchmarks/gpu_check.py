"""Everything that only a GPU can show, in one Markdown report: python -m benchmarks.gpu_check [--out FOLDER].

The optional kernels; the GPU tests; what a guidance step takes; the toybox's three stages on CUDA and on the CPU, whose
figures the report shows one after the other; a hundred steps of each stage at Stable Diffusion 2.1's size, with random
weights, in bfloat16 at 512 pixels; and a run on all GPUs. Every part is a process of its own with a time limit, so that
one that fails does not end the others. The report, FOLDER/report.md, is written anew after every part; the outputs lie
beside it. Exits with 1 if a part has failed, and with 2 where there is no GPU.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.step_timer import FIGURE
from common.files import atomic_write

ROOT = Path(__file__).parents[1]
MINUTES = 25
STAGES = ("nerf", "geometry", "texture")
KERNELS = """
import torch
from scene import hashgrid, volume_rendering
device = torch.device("cuda")
print("figure: volume rendering:", volume_rendering.backend(device))
print("figure: hash grid:", hashgrid.backend(device))
"""


@dataclass(frozen=True)
class Part:
    """One thing to check.

    Args:
        name: Also of the file of its output.
        command: What to run.
        seconds: Its time limit.
        shown: Whether the report shows the end of its output even if it passed.
    """

    name: str
    command: list[str]
    seconds: float
    shown: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Args:
        name: The part's.
        result: "passed", or what went wrong.
        seconds: That it took.
        busy: Mean utilisation of the first GPU in per cent; None where nvidia-smi did not tell.
        figures: Lines of its output that are results.
        tail: The end of its output, where the report shows it.
    """

    name: str
    result: str
    seconds: float
    busy: float | None
    figures: list[str]
    tail: str


def stage_command(stage: str, preset: str, runs: Path, name: str, *options: str) -> list[str]:
    """The command that runs a stage and times its steps.

    Args:
        stage: nerf, geometry or texture; the latter two start from the toybox's runs on CUDA.
        preset: Folder of the stage's file in configs/.
        runs: Folder of all runs.
        name: Of this run.
        options: More of them.
    """
    before = [f"--model.{other}={runs / f'toybox {other}, cuda'}" for other in STAGES[: STAGES.index(stage)]]
    return [
        *(sys.executable, "-m", "lightning_modules.cli", "fit"),
        *("--config", str(ROOT / "configs" / preset / f"{stage}.yaml")),
        *("--prompt=a red mushroom", f"--trainer.default_root_dir={runs / name}", "--trainer.log_every_n_steps=1"),
        *("--data.eval_frames=4", "--data.validation_frames=1", "--trainer.enable_progress_bar=false"),
        *(*before, *options, "--trainer.callbacks+=benchmarks.step_timer.StepTimer"),
    ]


def all_parts(folder: Path, gpus: int) -> list[Part]:
    """The parts, in their order.

    Args:
        folder: For what they write.
        gpus: How many there are.
    """
    python = sys.executable
    model = folder / "stable-diffusion"
    half = ["--dtype", "bfloat16", "--device", "cuda"]
    guidance, one_call = (
        [python, "-m", f"benchmarks.{name}", "--size", "sd21", *half] for name in ("guidance_step", "one_call")
    )
    parts = [
        Part("kernels", [python, "-c", KERNELS], 300),
        Part("GPU tests", [python, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")], 300, shown=True),
        Part(
            "guidance, operations",
            [python, "-m", "benchmarks.guidance_step", "--size", "sd21", "--flops"],
            180,
            shown=True,
        ),
        Part("guidance, time", [*guidance, "--repeats", "5"], 240, shown=True),
        Part("guidance, one call", [*one_call, "--batch", "1", "4", "--repeats", "5"], 120, shown=True),
    ]
    for device in ("cuda", "cpu"):
        for stage in STAGES:
            name = f"toybox {stage}, {device}"
            options = [f"--trainer.accelerator={'gpu' if device == 'cuda' else device}", "--trainer.max_steps=40"]
            parts.append(Part(name, stage_command(stage, "toybox", folder, name, *options), 150))
    parts.append(Part("weights", [python, "-m", "benchmarks.untrained_sd", str(model), "--size", "sd21"], 120))
    compiled = [python, "-m", "benchmarks.compile_check", "--model", str(model), *half]
    parts.append(Part("guidance, compiled", compiled, 300, shown=True))
    savings = [f"--trainer.callbacks.savings.{switch}=true" for switch in ("checkpointing", "channels_last")]
    for stage, more in [*((stage, []) for stage in STAGES), ("nerf", savings)]:
        name = f"Stable Diffusion {stage}, 512 px, bfloat16{', savings' if more else ''}"
        options = [
            *(f"--trainer.callbacks.model={model}", "--trainer.callbacks.dtype=bfloat16", "--trainer.accelerator=gpu"),
            *("--trainer.max_steps=100", "--trainer.val_check_interval=100", *more),
            "--data.milestones=[{step: 0, resolution: 512, batch_size: 1}]",
        ]
        parts.append(Part(name, stage_command(stage, "", folder, name, *options), 240))
    options = ["--trainer.accelerator=gpu", f"--trainer.devices={gpus}", f"--model.particles={gpus}"]
    command = stage_command("nerf", "toybox", folder, "all GPUs", *options, "--trainer.max_steps=20")
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", *command[1:]]
    return [*parts, Part(f"torchrun on {gpus} GPU{'s' if gpus > 1 else ''}", torchrun, 180)]


def run(part: Part, folder: Path, seconds: float) -> Outcome:
    """Runs a part.

    Args:
        part: What to run.
        folder: Where its output goes.
        seconds: What is left of the time; none or less skips the part.
    """
    if seconds <= 0:
        return Outcome(part.name, f"skipped: {MINUTES} minutes are over", 0.0, None, [], "")
    limit, start, busy = min(part.seconds, seconds), time.monotonic(), []
    file = folder / f"{part.name}.log"
    with file.open("w") as output:
        process = subprocess.Popen(
            part.command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        while process.poll() is None and time.monotonic() - start < limit:
            time.sleep(min(1.0, limit / 20))
            busy += utilisation()
        late = process.poll() is None
        if late:
            end(process)
        code = process.wait()
    lines = file.read_text(errors="replace").splitlines()
    result = f"stopped after {limit:.0f} s" if late else "passed" if code == 0 else f"failed with {code}"
    figures = [line[line.index(FIGURE) + len(FIGURE) :] for line in lines if FIGURE in line]
    mean = sum(busy) / len(busy) if busy else None
    tail = "\n".join(lines[-40:]) if part.shown or result != "passed" else ""
    return Outcome(part.name, result, time.monotonic() - start, mean, figures, tail)


def end(process: subprocess.Popen) -> None:
    """Kills a process that has a session of its own, and where there are sessions all that it has started."""
    if hasattr(os, "killpg"):  # Windows has none
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def utilisation() -> list[float]:
    """Of the first GPU, in per cent; empty where nvidia-smi does not tell."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    answer = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return [float(answer)] if answer.isdigit() else []


def report(machine: str, outcomes: list[Outcome]) -> str:
    """The report as Markdown."""
    lines = ["# GPU check", "", machine, "", "| part | result | seconds | GPU busy |", "|---|---|---|---|"]
    for o in outcomes:
        busy = "" if o.busy is None else f"{o.busy:.0f} %"
        lines.append(f"| {o.name} | {o.result} | {o.seconds:.0f} | {busy} |")
    for o in outcomes:
        if o.figures or o.tail:
            lines += ["", f"## {o.name}", ""]
        lines += [f"- {figure}" for figure in o.figures]
        if o.tail:
            lines += ["", "```", o.tail, "```"]
    return "\n".join(lines) + "\n"


def check(parts: list[Part], folder: Path, machine: str) -> list[Outcome]:
    """Runs the parts one after the other; the report is written anew after each.

    Args:
        parts: What to run.
        folder: For the report and the outputs.
        machine: A line that describes it.
    """
    end, outcomes = time.monotonic() + 60 * MINUTES, []
    for part in parts:
        print(f"{part.name} ...", flush=True)
        outcomes.append(run(part, folder, end - time.monotonic()))
        print(f"  {outcomes[-1].result}, {outcomes[-1].seconds:.0f} s", flush=True)
        with atomic_write(folder / "report.md") as temporary:
            temporary.write_text(report(machine, outcomes))
    return outcomes


def main(args: list[str] | None = None) -> None:
    """The command.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"), help="folder (default: %(default)s)")
    options = parser.parse_args(args)
    if not torch.cuda.is_available():
        print("gpu-check: PyTorch finds no CUDA device here; run it on a machine with a GPU", file=sys.stderr)
        sys.exit(2)
    options.out.mkdir(parents=True, exist_ok=True)
    gpus = torch.cuda.device_count()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    machine = f"{gpus} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB; PyTorch {torch.__version__}"
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        outcomes = check(all_parts(Path(scratch), gpus), options.out, machine)
    print(options.out / "report.md")
    sys.exit(0 if all(outcome.result == "passed" for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
