"""How near to the truth is what the toybox preset makes? python -m benchmarks.truth_score --prompt "a red car"

Trains the preset on each prompt with several seeds, renders the result from eight cameras and compares it with true
instances (see benchmarks.truth_distance): score 1 is a true instance, 0 another object of the same colour. Prints a
row a prompt and last the smallest mean score; writes truth_score.png, in rows the nearest true instance and the
results of all seeds, in columns the cameras, the front first.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.truth_distance import INSTANCES, Look, cameras, nearest, scale, true_looks
from datamodules.toybox.captions import parse_prompt
from lightning_modules.cli import run
from lightning_modules.nerf import NerfStage
from lightning_modules.stage import save_picture
from vsd.errors import InputError

CONFIG = "configs/toybox/nerf.yaml"
CALIBRATION = (10, 50)  # steps between which a run is timed


def fit(arguments: argparse.Namespace, prompt: str, seed: int, steps: int | None, folder: Path, *more: str):
    """One run of the preset; returns the command with its model and data."""
    options = [
        *("fit", "--config", arguments.config, "--prompt", prompt, "--seed_everything", str(seed)),
        *(f"--model.seed={seed}", f"--data.seed={seed}", f"--trainer.default_root_dir={folder}"),
        *("--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0", "--trainer.limit_test_batches=0"),
        *("--trainer.enable_checkpointing=false", *more, *arguments.overrides),
    ]
    if steps is not None:
        options += [f"--trainer.max_steps={steps}"]
    return run(options)


@torch.no_grad()
def look_at_particle(stage: NerfStage, index: int, distance: float, fovy: float, size: int) -> Look:
    """A look (V, ...) at a particle."""
    orbit = cameras(distance, fovy)
    stage.eval()
    batch = {"camera_to_world": orbit.camera_to_world(), "fovy": orbit.fovy, "resolution": size}
    out, _ = stage.render(stage.particles[index], batch)
    shape = (len(orbit), size, size)
    return Look((out.rgb + 1 - out.opacity).view(*shape, 3), (out.opacity > 0.5).view(shape))


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", action="append", required=True, help="such as 'a red car'; may be given often")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--guidance", choices=("vsd", "sds"), help="by default the preset's")
    parser.add_argument("--scale", type=float, help="of classifier-free guidance, by default the preset's")
    parser.add_argument("--minutes", type=float, help="as many steps as fit; by default the preset's number of steps")
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--out", type=Path, default=Path("runs/truth_score"))
    arguments, arguments.overrides = parser.parse_known_args(args)
    guidance = "--trainer.callbacks.init_args."
    if arguments.guidance:
        arguments.overrides.append(f"{guidance}kind={arguments.guidance}")
    if arguments.scale is not None:
        arguments.overrides.append(f"{guidance}scale={arguments.scale:g}")
    try:
        smallest = measure(arguments)
    except InputError as error:
        print(f"truth_score: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"min score {smallest:.2f}")


def measure(arguments: argparse.Namespace) -> float:
    """Runs everything, prints a row a prompt, and returns the smallest mean score."""
    words = {prompt: parse_prompt(prompt)[:2] for prompt in arguments.prompt}
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'prompt':<20}{'mean':>6}{'min':>7}{'max':>7}{'L1':>7}{'real':>7}{'wrong':>7}{'steps':>7}{'seconds':>9}")
    means, rows = [], []
    for prompt, (name, colour) in words.items():
        scores, distances, seconds, looks = [], [], [], []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            folder = arguments.out / "runs" / f"{colour}-{name}-{seed}".replace(" ", "-")
            steps = steps_in(arguments, prompt, folder) if arguments.minutes else None
            start = time.perf_counter()
            command = fit(arguments, prompt, seed, steps, folder)
            seconds.append(time.perf_counter() - start)
            data = command.datamodule
            where = (data.eval_distance, data.eval_fovy, data.eval_resolution)
            truth = true_looks(name, colour, INSTANCES, 0, *where)
            look = look_at_particle(command.model, 0, *where)
            distance, which = nearest(look, truth)
            distances.append(distance)
            scores.append(scale(name, colour, *where).score(distance))
            looks.append(look.rgb)
            if seed == arguments.first_seed:
                looks.insert(0, truth.rgb[which])
            record = {"prompt": prompt, "seed": seed, "score": scores[-1], "l1": distance, "seconds": seconds[-1]}
            with open(arguments.out / "scores.jsonl", "a") as file:
                file.write(json.dumps(record | {"overrides": arguments.overrides}) + "\n")
        means.append(sum(scores) / len(scores))
        ends = scale(name, colour, *where)
        print(
            f"{prompt:<20}{means[-1]:>6.2f}{min(scores):>7.2f}{max(scores):>7.2f}{sum(distances) / len(scores):>7.3f}"
            f"{ends.real:>7.3f}{ends.wrong:>7.3f}{command.trainer.global_step:>7}{sum(seconds) / len(seconds):>9.0f}",
            flush=True,
        )
        rows += looks
        save_picture(strips(rows), arguments.out / "truth_score.png")
    return min(means)


def steps_in(arguments: argparse.Namespace, prompt: str, folder: Path) -> int:
    """How many steps fit into the given minutes, from a short run of the same preset."""
    first, last = CALIBRATION
    times = []
    for steps in CALIBRATION:
        start = time.perf_counter()
        fit(arguments, prompt, 0, steps, folder / "calibration")
        times.append(time.perf_counter() - start)
    step = (times[1] - times[0]) / (last - first)
    return max(1, int((60 * arguments.minutes - (times[0] - first * step)) / step))


def strips(rows: list[Tensor]) -> Tensor:
    """Looks (V, H, W, 3) as rows of one picture (R H, V W, 3)."""
    return torch.cat([torch.cat(list(row), 1) for row in rows])


if __name__ == "__main__":
    main()
