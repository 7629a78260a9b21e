"""Particles as NeRFs, the experiment of the claims in 3D: the toybox's NeRF stage with another guidance.

Only the guidance, or what is said of the cameras, differs from a preset (`configs/toybox/nerf.yaml`). Every particle
makes the same number of steps whatever their number, and all particles of a run share one phi.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from common.cache import cached
from common.pixels import to_uint8
from evaluation.pictures import Pictures, look_cameras, white
from evaluation.runs import DISTANCE, FOVY, look_at
from evaluation.short_presets import GUIDANCE, squeezed
from evaluation.truth_distance import VIEWS
from lightning_modules.cli import run
from lightning_modules.wish import config_of

KINDS = {  # method: options of the guidance
    "sds": ("kind=sds",),
    "csd": ("kind=csd",),
    "vsd": ("kind=vsd", "score.phi_mix=1.0"),
    "vsd-0.75": ("kind=vsd", "score.phi_mix=0.75"),  # as in the preset
    "esd": ("kind=esd", "score.phi_mix=1.0"),
}
CAMERAS = "--data.cameras."
VARIANTS = {  # of a run's cameras; options of the run that it changes
    "": (),
    "dropout 0": (f"{GUIDANCE}score.camera_dropout=0.0",),
    "dropout 0.5": (f"{GUIDANCE}score.camera_dropout=0.5",),
    # ESD of scale 0 asks phi without a camera, which is all that a phi with a dropout of 1 has seen.
    "no camera": (f"{GUIDANCE}kind=esd", f"{GUIDANCE}esd_scale=0.0", f"{GUIDANCE}score.camera_dropout=1.0"),
    "far": (f"{CAMERAS}distance=[3.6,4.4]",),
    "from below": (f"{CAMERAS}elevation=[-60,-15]",),
    "no view words": (f"{GUIDANCE}views=null",),
}


@dataclass(frozen=True)
class Setting3D:
    """One run.

    Args:
        prompt: Object and colour.
        kind: A key of KINDS.
        scale: Of classifier-free guidance.
        particles: n.
        seed: Of everything random.
        steps: Of each particle; the preset's schedules are squeezed or stretched to them.
        variant: A key of VARIANTS, what is changed of the cameras; "" for nothing.
        preset: Of the NeRF stage, from which all else is taken.
    """

    prompt: str
    kind: str
    scale: float
    particles: int = 1
    seed: int = 0
    steps: int = 900
    variant: str = ""
    preset: str = "toybox"

    @property
    def key(self) -> str:
        """A name: the values, joined."""
        seldom = ("variant", "preset")  # of which the defaults are no part of the name
        values = [v for name, v in asdict(self).items() if name not in seldom or v != getattr(Setting3D, name)]
        return "3d-" + "-".join(str(value).replace(" ", "_") for value in values)


def options_of(setting: Setting3D, folder: Path) -> list[str]:
    """The options of `vsd` for a run.

    Args:
        setting: The run.
        folder: Of the run.
    """
    config = config_of(setting.preset, "nerf")
    return [
        *("fit", "--config", str(config), "--prompt", setting.prompt, "--seed_everything", str(setting.seed)),
        *(f"--trainer.default_root_dir={folder}", f"--model.particles={setting.particles}"),
        *squeezed(config, setting.steps, setting.particles),
        *(f"{GUIDANCE}scale={setting.scale:g}", *(GUIDANCE + option for option in KINDS[setting.kind])),
        *VARIANTS[setting.variant],
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false"),
        *("--trainer.limit_val_batches=0", "--trainer.limit_test_batches=0", "--checkpoint.every=1000000"),
    ]


def file_of(setting: Setting3D, folder: Path) -> Path:
    """The file of a run: another text of the preset's file, method or variant makes another.

    Args:
        setting: The run.
        folder: Of the files.
    """
    config = config_of(setting.preset, "nerf")
    options = [option for option in options_of(setting, Path()) if option != str(config)]  # not its place
    made_with = hashlib.sha256(repr((options, config.read_text(encoding="utf-8"))).encode()).hexdigest()[:6]
    return folder / f"{setting.key}-{made_with}.safetensors"


def particles_3d(setting: Setting3D, folder: Path) -> tuple[Pictures, dict[str, float]]:
    """The particles of a run, from the folder or trained and put there.

    Args:
        setting: The run.
        folder: Of the files.

    Returns:
        n particles in eight views, and the run's seconds and phi's health at its end, where it has a phi.
    """

    def make() -> dict[str, Tensor]:
        with TemporaryDirectory() as place:
            start = time.perf_counter()
            command = run(options_of(setting, Path(place) / "run"))
            figures = {"seconds": torch.tensor(time.perf_counter() - start)}
            core = command.model.guidances[0].core
            if core.health is not None:
                figures |= {name: value.cpu() for name, value in core.health.figures().items()}
        seen = look_at(command.model.eval(), look_cameras(VIEWS, DISTANCE, FOVY))
        return {"rgb": to_uint8(seen.rgb), "mask": seen.mask.to(torch.uint8)} | figures

    tensors = cached(file_of(setting, folder), make)
    rgb, mask = tensors.pop("rgb").float() / 255, tensors.pop("mask").bool()
    pictures = Pictures(rgb, mask, white(*rgb.shape[:2]))
    return pictures, {name: float(value) for name, value in tensors.items()}
