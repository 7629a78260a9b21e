"""What a run has made, seen by the cameras of a look: any stage, any number of particles, any device's run."""

import contextlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from common.errors import InputError
from evaluation.pictures import SIZE, Pictures, look_cameras, white, with_found_masks
from lightning_modules.cli import run
from lightning_modules.dream import handed_on
from lightning_modules.handover import stage_folder
from lightning_modules.nerf import NerfStage
from lightning_modules.object_stage import ObjectStage
from lightning_modules.run.checkpoints import read_checkpoint
from lightning_modules.run.folder import CONFIG, DREAM, LAST
from lightning_modules.wish import STAGES
from scene.cameras import Orbit
from vsd.prior import TOYBOX, DiffusionPrior

DISTANCE, FOVY = 2.3, 40.0  # of the cameras of a run whose configuration names none


@dataclass(frozen=True)
class Result:
    """What a run has made.

    Args:
        folder: Of the run.
        prompt: Its prompt.
        prior: The prior that guided it: "toybox", a folder or a hub id.
        stage: The class of its stage.
        cameras: The V cameras of its pictures.
        pictures: n particles in V views, a square of `size` pixels each; in 2D the particles of the last guidance, in
            the one view that they show.
    """

    folder: Path
    prompt: str
    prior: str
    stage: str
    cameras: Orbit
    pictures: Pictures


def record_of(folder: Path) -> dict:
    """The configuration that a run was made with.

    Args:
        folder: A run folder of any stage, or a folder of `dream`, whose last stage is meant.

    Returns:
        What its config.yaml holds.

    Raises:
        InputError: There is no run in the folder, or it has no prompt.
    """
    file = stage_folder(folder) / CONFIG
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not config.get("prompt"):
        raise InputError(f"{file}: prompt: it is missing; a run without one cannot be judged")
    return config


def load_result(folder: Path, views: int = 8, size: int = SIZE) -> Result:
    """Renders what a run has made.

    Args:
        folder: A run folder of any stage, or a folder of `dream`, whose last stage is meant.
        views: V; a 2D run has its one view whatever is asked for.
        size: Pixels of a side.

    Returns:
        What it has made.

    Raises:
        InputError: There is no run in the folder, or it has no prompt or checkpoint.
    """
    config, folder = record_of(folder), stage_folder(folder)
    prompt, stage = config["prompt"], config["model"]["class_path"].rpartition(".")[2]
    callbacks = config["trainer"]["callbacks"] or []
    models = [c["init_args"].get("model", TOYBOX) for c in callbacks if c["class_path"].endswith("VSDGuidance")]
    prior = models[-1] if models else TOYBOX
    if stage == "ImageStage":
        cameras, pictures = _images(folder, config, prior, size)
    else:
        data = (config.get("data") or {}).get("init_args", {})
        cameras = look_cameras(views, data.get("eval_distance", DISTANCE), data.get("eval_fovy", FOVY))
        pictures = look_at(_load_stage(folder), cameras, size)
    return Result(folder, prompt, prior, stage, cameras, pictures)


def _load_stage(folder: Path) -> ObjectStage:
    """The stage of a run with its particles."""
    before = folder.name if (folder.parent / DREAM).is_file() else STAGES[0]
    quiet = [f"--trainer.{key}=false" for key in ("logger", "enable_progress_bar", "enable_model_summary")]
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):  # what a run says of its folder and backends
        command = run(
            [
                *("validate", "--config", str(folder / CONFIG), "--ckpt_path", "last", "--trainer.limit_val_batches=0"),
                *quiet,
                *handed_on(before, folder.parent.absolute()),
            ]
        )
    return command.model.eval()


@torch.no_grad()
def look_at(stage: ObjectStage, cameras: Orbit, size: int = SIZE) -> Pictures:
    """The particles of a stage over white.

    Args:
        stage: With its particles.
        cameras: V cameras.
        size: Pixels of a side.

    Returns:
        n particles in V views.
    """
    batch = cameras.cameras(size).to(stage.device)
    rgb, opacity = [], []
    for index in range(len(stage.particles)):
        if isinstance(stage, NerfStage):
            out, _ = stage.render(stage.particles[index], batch)
            colour, cover = out.rgb, out.opacity
        else:
            out = stage.render(index, batch)
            colour, cover = out.colour, out.coverage
        rgb.append((colour + 1 - cover).view(len(cameras), size, size, 3).cpu())
        opacity.append(cover.view(len(cameras), size, size).cpu())
    pictures = torch.stack(rgb).permute(0, 1, 4, 2, 3).contiguous()
    return Pictures(pictures, torch.stack(opacity) > 0.5, white(len(rgb), len(cameras)))


def _images(folder: Path, config: dict, model: str, size: int) -> tuple[Orbit, Pictures]:
    """The camera of a 2D run, and the particles of its last guidance."""
    options = config["model"]["init_args"]
    state = read_checkpoint(folder / LAST, "ImageStage")["state_dict"]
    keys = [tuple(int(word) for word in key.split(".")[1:]) for key in state if key.startswith("pictures.")]
    last = max(guidance for guidance, _ in keys)
    pictures = torch.stack([state[f"pictures.{last}.{i}"] for i in range(sum(g == last for g, _ in keys))])
    if options.get("space", "latents") == "latents":
        pictures = DiffusionPrior.load(model).decode(pictures.float())
    rgb = ((pictures + 1) / 2).clamp(0, 1)
    if rgb.shape[-1] != size:
        rgb = torch.nn.functional.interpolate(rgb, (size, size), mode="bilinear", antialias=True)
    azimuth, elevation = options.get("azimuth", 0.0), options.get("elevation", 15.0)
    cameras = Orbit(*(torch.tensor([v]) for v in (float(azimuth), float(elevation), DISTANCE, FOVY)))
    return cameras, with_found_masks(rgb[:, None])
