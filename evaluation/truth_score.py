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
from torch import Tensor

from common.checks import require_positive, require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from datamodules.random_cameras import RandomCameras
from evaluation.runs import look_at
from evaluation.short_presets import CONFIG, GUIDANCE, Preset, fit, squeezed, steps_in, train_later_stage
from evaluation.truth_distance import INSTANCES, Look, cameras, nearest, scale, true_looks
from lightning_modules.object_stage import ObjectStage
from lightning_modules.run.pictures import save_picture
from lightning_modules.wish import STAGES
from toybox.world.captions import parse_prompt

PIXELS = 64  # of a look's side


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
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="of them (default: %(default)s)")
    parser.add_argument("--guidance", choices=("vsd", "sds"), help="by default the preset's")
    parser.add_argument("--scale", type=float, help="of classifier-free guidance, by default the preset's")
    parser.add_argument("--minutes", type=float, help="squeeze or stretch the preset, schedules and all, to this time")
    parser.add_argument("--stage", choices=STAGES, default="nerf", help="the last one to run (default: %(default)s)")
    parser.add_argument("--config", type=a_path, default=CONFIG, help="of the NeRF stage (default: %(default)s)")
    parser.add_argument("--out", type=a_path, default=Path("runs/truth_score"), help="a folder (default: %(default)s)")
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
    preset = Preset(arguments.config, arguments.overrides)
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
            steps = steps_in(preset, prompt, folder, arguments.minutes) if arguments.minutes else None
            for stage in stages:
                start = time.perf_counter()
                if stage == "nerf":
                    command = fit(preset, prompt, seed, steps, folder / stage)
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
            scores, distances, times, lengths = zip(*rows, strict=True)
            print(
                f"{f'{prompt}, {stage}':<30}{mean(scores):>6.2f}{min(scores):>7.2f}{max(scores):>7.2f}"
                f"{mean(distances):>7.3f}{ends.real:>7.3f}{ends.wrong:>7.3f}{lengths[-1]:>7}{mean(times):>9.0f}",
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
