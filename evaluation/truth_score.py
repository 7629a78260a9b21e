"""Trains the toybox preset and scores it by L1 to the truth: python -m evaluation.truth_score --prompt "a red car".

Every prompt is trained with several seeds; the result is rendered from eight cameras and compared with true instances
(see `evaluation.truth_distance`): score 1 is a true instance, 0 another object of the same colour. Prints one row per
prompt and last the smallest mean score; writes truth_score.png, in rows the nearest true instance and the results of
all seeds, in columns the cameras, the front first. With --stage the stages after the NeRF run too, and each has a row
of its own. The score rewards blur; `evaluation.score` measures runs by what else matters.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from statistics import mean

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from common.checks import require_positive, require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from datamodules.random_cameras import RandomCameras
from evaluation.runs import look_at
from evaluation.truth_distance import INSTANCES, Look, cameras, nearest, scale, true_looks
from lightning_modules.cli import Command, run
from lightning_modules.dream import handed_on
from lightning_modules.object_stage import ObjectStage
from lightning_modules.run.pictures import save_picture
from lightning_modules.wish import STAGES
from toybox.world.captions import parse_prompt

CONFIG = Path("configs/toybox/nerf.yaml")
PIXELS = 64  # of a look's side
GUIDANCE = "--trainer.callbacks.init_args."
CALIBRATION = (20, 80)  # steps of the two presets, squeezed to them, whose times tell that of a step


def options(config: str, prompt: str, seed: int, folder: Path) -> list[str]:
    """The options of a stage's run without pictures and progress.

    Args:
        config: The stage's file.
        prompt: What to make.
        seed: Of everything random.
        folder: The run folder.

    Returns:
        Arguments of `vsd`.
    """
    return [
        *("fit", "--config", str(config), "--prompt", prompt, "--seed_everything", str(seed)),
        *(f"--model.seed={seed}", f"--data.seed={seed}", f"--trainer.default_root_dir={folder}"),
        *("--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0", "--trainer.limit_test_batches=0"),
        "--trainer.enable_model_summary=false",
    ]


def fit(arguments: argparse.Namespace, prompt: str, seed: int, steps: int | None, folder: Path) -> Command:
    """Trains the NeRF preset once.

    Args:
        arguments: Of this command.
        prompt: What to make.
        seed: Of everything random.
        steps: To squeeze or stretch the preset to, None for its own.
        folder: The run folder.

    Returns:
        The command with its model and data.
    """
    length = [] if steps is None else squeezed(arguments.config, steps)
    kept = "--checkpoint.every=1000000"  # at the end alone
    return run([*options(arguments.config, prompt, seed, folder), kept, *arguments.overrides, *length])


def squeezed(config: str | Path, steps: int, particles: int = 1) -> list[str]:
    """The options that squeeze or stretch a NeRF preset with all its schedules.

    Args:
        config: The preset's file.
        steps: How many each particle shall make.
        particles: n.

    Returns:
        Arguments of `vsd`.
    """
    try:
        preset = OmegaConf.load(config)
        factor = steps / preset.trainer.max_steps
        milestones = [{**m, "step": round(factor * m.step) * particles} for m in preset.data.init_args.milestones]
        warm_start = preset.trainer.callbacks[0].init_args.score.warm_start
    except (OmegaConfBaseException, UnicodeDecodeError, YAMLError, TypeError, IndexError) as error:
        raise InputError(f"--config: {config} is no preset of the NeRF stage ({type(error).__name__})") from error
    return [
        *(f"--trainer.max_steps={steps * particles}", f"{GUIDANCE}timesteps.steps={steps}"),
        *(f"{GUIDANCE}score.warm_start={round(factor * warm_start)}", f"--data.milestones={json.dumps(milestones)}"),
    ]


def train_later_stage(stage: str, prompt: str, seed: int, folder: Path) -> Command:
    """Trains a later stage's preset after those before it in the same folder.

    Args:
        stage: "geometry" or "texture".
        prompt: What to make.
        seed: Of everything random.
        folder: Holds the run folders of all stages.

    Returns:
        The command with its model and data.
    """
    config = str(CONFIG.with_name(f"{stage}.yaml"))
    return run([*options(config, prompt, seed, folder / stage), *handed_on(stage, folder)])


def look_at_particle(stage: ObjectStage, index: int, distance: float, fovy: float, size: int) -> Look:
    """Looks at a particle.

    Args:
        stage: With its particles.
        index: Of the particle.
        distance: Of the cameras, world units.
        fovy: Degrees.
        size: Pixels of a side.

    Returns:
        The eight pictures (V, ...).
    """
    pictures = look_at(stage.eval(), cameras(distance, fovy), size)
    return Look(pictures.rgb[index].permute(0, 2, 3, 1), pictures.mask[index])


def main(args: list[str] | None = None) -> None:
    """The command; exits with 2 and one line when an input is wrong.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(prog="truth_score", description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", action="append", required=True, help="such as 'a red car'; may be given often")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--guidance", choices=("vsd", "sds"), help="by default the preset's")
    parser.add_argument("--scale", type=float, help="of classifier-free guidance, by default the preset's")
    parser.add_argument("--minutes", type=float, help="squeeze or stretch the preset, schedules and all, to this time")
    parser.add_argument("--stage", choices=STAGES, default="nerf", help="the last one to run (default: %(default)s)")
    parser.add_argument("--config", type=a_path, default=CONFIG, help="of the NeRF stage (default: %(default)s)")
    parser.add_argument("--out", type=a_path, default=Path("runs/truth_score"))
    with one_line("truth_score"):
        arguments, arguments.overrides = parser.parse_known_args(args)
        require_range("--seeds", arguments.seeds, 1, 1000)
        require_range("--first-seed", arguments.first_seed, 0, 2**32 - 1 - arguments.seeds)
        require_range("--scale", arguments.scale, 0)
        require_positive("--minutes", arguments.minutes)
        require_place("--out", arguments.out)
        for prompt in arguments.prompt:
            parse_prompt(prompt)
        if not arguments.config.is_file():
            raise InputError(f"--config: {arguments.config} does not exist; name a configuration file")
        if arguments.minutes:
            squeezed(arguments.config, 1)
        if arguments.guidance:
            arguments.overrides.append(f"{GUIDANCE}kind={arguments.guidance}")
        if arguments.scale is not None:
            arguments.overrides.append(f"{GUIDANCE}scale={arguments.scale:g}")
        smallest = measure(arguments)
    print(f"min score {smallest:.2f}")


def measure(arguments: argparse.Namespace) -> float:
    """Runs everything and prints one row per prompt and stage.

    Args:
        arguments: Of this command.

    Returns:
        The smallest mean score of the last stage.

    Raises:
        InputError: A prompt is none of the toybox.
    """
    words = {prompt: parse_prompt(prompt)[:2] for prompt in arguments.prompt}
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'prompt':<30}{'mean':>6}{'min':>7}{'max':>7}{'L1':>7}{'real':>7}{'wrong':>7}{'steps':>7}{'seconds':>9}")
    stages = STAGES[: STAGES.index(arguments.stage) + 1]
    least, pictures = [], []
    for prompt, (name, colour) in words.items():
        results = {stage: [] for stage in stages}
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            folder = arguments.out / "runs" / f"{colour}-{name}-{seed}".replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            steps = steps_in(arguments, prompt, folder) if arguments.minutes else None
            for stage in stages:
                start = time.perf_counter()
                if stage == "nerf":
                    command = fit(arguments, prompt, seed, steps, folder / stage)
                else:
                    command = train_later_stage(stage, prompt, seed, folder)
                seconds = time.perf_counter() - start
                where = look_cameras(command.datamodule)
                look = look_at_particle(command.model, 0, *where)
                truth = true_looks(name, colour, INSTANCES, 0, *where)
                distance, which = nearest(look, truth)
                score = scale(name, colour, *where).score(distance)
                results[stage].append((score, distance, seconds, command.trainer.global_step))
                if stage == stages[0] and seed == arguments.first_seed:
                    pictures.append(truth.rgb[which])
                pictures.append(look.rgb)
                record = {"prompt": prompt, "stage": stage, "seed": seed, "score": score, "l1": distance}
                with open(arguments.out / "scores.jsonl", "a") as file:
                    file.write(json.dumps(record | {"seconds": seconds, "overrides": arguments.overrides}) + "\n")
        ends = scale(name, colour, *where)
        for stage, rows in results.items():
            scores, distances, times, made = zip(*rows, strict=True)
            print(
                f"{f'{prompt}, {stage}':<30}{mean(scores):>6.2f}{min(scores):>7.2f}{max(scores):>7.2f}"
                f"{mean(distances):>7.3f}{ends.real:>7.3f}{ends.wrong:>7.3f}{made[-1]:>7}{mean(times):>9.0f}",
                flush=True,
            )
        least.append(mean(scores))
        save_picture(strips(pictures), arguments.out / "truth_score.png")
    return min(least)


def look_cameras(data: RandomCameras) -> tuple[float, float, int]:
    """The cameras of a look: the preset's, at the world's resolution.

    Args:
        data: Of the preset.

    Returns:
        Distance in world units, field of view in degrees, pixels of a side.
    """
    return data.eval_distance, data.eval_fovy, PIXELS


def steps_in(arguments: argparse.Namespace, prompt: str, folder: Path) -> int:
    """How many steps of the preset, squeezed or stretched to them, fit into the given minutes, from two short runs.

    Args:
        arguments: Of this command; its `minutes` count.
        prompt: What to make.
        folder: Of the short runs.

    Returns:
        At least 1.
    """
    first, last = CALIBRATION
    times = []
    for steps in CALIBRATION:
        start = time.perf_counter()
        fit(arguments, prompt, 0, steps, folder / f"calibration-{steps}")
        times.append(time.perf_counter() - start)
    step = (times[1] - times[0]) / (last - first)
    return max(1, int((60 * arguments.minutes - (times[0] - first * step)) / step))


def strips(rows: list[Tensor]) -> Tensor:
    """Joins looks to one picture.

    Args:
        rows: R looks (V, H, W, 3).

    Returns:
        (R H, V W, 3).
    """
    return torch.cat([torch.cat(list(row), 1) for row in rows])


if __name__ == "__main__":
    main()
