"""Runs of the toybox's presets to be measured, without pictures, squeezed or stretched to a length or a time."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from common.errors import InputError
from lightning_modules.cli import Command, run
from lightning_modules.dream import handed_on

CONFIG = Path("configs/toybox/nerf.yaml")
GUIDANCE = "--trainer.callbacks.init_args."
CALIBRATION = (20, 80)  # steps of the two presets, squeezed to them, whose times tell that of a step


@dataclass(frozen=True)
class Preset:
    """A preset of the NeRF stage as it is measured.

    Args:
        config: Its file.
        overrides: Further options of `vsd fit`.
    """

    config: str | Path = CONFIG
    overrides: list[str] = field(default_factory=list)


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


def fit(preset: Preset, prompt: str, seed: int, steps: int | None, folder: Path) -> Command:
    """Trains the NeRF preset once.

    Args:
        preset: The preset.
        prompt: What to make.
        seed: Of everything random.
        steps: To squeeze or stretch the preset to, None for its own.
        folder: The run folder.

    Returns:
        The command with its model and data.
    """
    length = [] if steps is None else squeezed(preset.config, steps)
    kept = "--checkpoint.every=1000000"  # at the end alone
    return run([*options(preset.config, prompt, seed, folder), kept, *preset.overrides, *length])


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


def steps_in(preset: Preset, prompt: str, folder: Path, minutes: float) -> int:
    """How many steps of the preset, squeezed or stretched to them, fit into the given minutes, from two short runs.

    Args:
        preset: The preset.
        prompt: What to make.
        folder: Of the short runs.
        minutes: How long all steps may take.

    Returns:
        At least 1.
    """
    first, last = CALIBRATION
    times = []
    for steps in CALIBRATION:
        start = time.perf_counter()
        fit(preset, prompt, 0, steps, folder / f"calibration-{steps}")
        times.append(time.perf_counter() - start)
    step = (times[1] - times[0]) / (last - first)
    return max(1, int((60 * minutes - (times[0] - first * step)) / step))
