"""The claims in 2D: which runs are measured, and their rows (see `evaluation.claims`).

All particles of a run are judged as a distribution, against the prior's own ancestral samples at the same scale, which
are what VSD aims at. A second set of samples is the reference: no method can be expected to come closer.
"""

import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch

from common.cache import cached
from common.pixels import to_uint8
from evaluation.claims_pictures import strip
from evaluation.claims_report import RUN
from evaluation.kid import kid
from evaluation.measures import Yardstick, features_of, load_judges
from evaluation.particles_2d import Own, Setting, distil
from evaluation.pictures import Pictures, with_found_masks
from evaluation.runs import DISTANCE, FOVY
from scene.cameras import Orbit
from toybox.prior.metrics import sample
from toybox.world.captions import VIEWS, caption, parse_prompt
from vsd.prior import TOYBOX, load_pipeline

AZIMUTH, ELEVATION = 45.0, 15.0  # degrees, of the one view
SAMPLES = 64  # of the prior per scale, and as many as the reference
SAMPLER_STEPS = 30


@dataclass(frozen=True)
class Plan:
    """Which runs a table has: all combinations.

    Args:
        prompts: Objects, without view words.
        kinds: Methods: a guidance's name, with DECAY after it or not.
        scales: Of classifier-free guidance.
        particles: Numbers of particles.
        seeds: How many seeds.
        steps: Of each particle.
    """

    prompts: tuple[str, ...]
    kinds: tuple[str, ...]
    scales: tuple[float, ...]
    particles: tuple[int, ...]
    seeds: int
    steps: int = 300


DECAY = ", decay"  # ends the names of methods in which the particles' learning rate falls to 0
KINDS = ("sds", "vsd", "csd", f"sds{DECAY}", f"vsd{DECAY}")
FULL = Plan(("a yellow duck", "a red car"), KINDS, (1.0, 2.0, 4.0, 7.5, 15.0), (8, 64), 5)
QUICK = Plan(("a yellow duck",), ("sds", "vsd", "sds, decay", "vsd, decay"), (1.0, 3.0, 7.5), (8,), 3)


def view_prompt(prompt: str) -> str:
    """The prompt with the words of the one view."""
    view = VIEWS.words[int(VIEWS.index(torch.tensor([AZIMUTH]), torch.tensor([ELEVATION])))]
    return caption(*parse_prompt(prompt)[:2], view)


def settings(plan: Plan) -> list[Setting]:
    """The runs of a plan, seeds last, so that a table that was stopped has rows of all methods."""
    combinations = product(range(plan.seeds), plan.prompts, plan.particles, plan.scales, plan.kinds)
    return [
        Setting(
            view_prompt(prompt),
            kind.removesuffix(DECAY),
            scale,
            count,
            seed,
            plan.steps,
            decay=kind.endswith(DECAY),
        )
        for seed, prompt, count, scale, kind in combinations
        if kind != "csd" or scale == plan.scales[0]  # which has no scale
    ]


def method_of(setting: Setting) -> str:
    """The name of a run's method, as a plan has it."""
    return setting.kind + DECAY if setting.decay else setting.kind


def samples(prompt: str, scale: float, count: int, seed: int, folder: Path) -> Pictures:
    """Ancestral samples of the prior, from the folder or drawn and put there.

    Args:
        prompt: With the words of its view.
        scale: Of classifier-free guidance, not rescaled: distillation is not either.
        count: How many.
        seed: Of the noise.
        folder: Of the files.

    Returns:
        The set, (count, 1, ...).
    """
    path = folder / f"samples-{prompt.replace(' ', '_').replace(',', '')}-{scale:g}-{count}-{seed}.safetensors"

    def make() -> dict[str, torch.Tensor]:
        images = (sample(load_pipeline(TOYBOX), [prompt] * count, scale, SAMPLER_STEPS, seed=seed) + 1) / 2
        return {"rgb": to_uint8(images)}

    return with_found_masks(cached(path, make)["rgb"].float()[:, None] / 255)


def particles(setting: Setting, folder: Path, own: Own | None = None) -> tuple[Pictures, dict[str, float]]:
    """The particles of a run, from the folder or distilled and put there; its seconds and phi's health."""

    def make() -> dict[str, torch.Tensor]:
        start = time.perf_counter()
        images, health = distil(setting, own=own)
        figures = {"seconds": time.perf_counter() - start} | health
        return {"rgb": to_uint8(images)} | {name: torch.tensor(value) for name, value in figures.items()}

    tensors = cached(folder / f"{setting.key}.safetensors", make)
    rgb = tensors.pop("rgb").float()[:, None] / 255
    return with_found_masks(rgb), {name: float(value) for name, value in tensors.items()}


class Table:
    """Measures runs, and the prior's samples beside them.

    Args:
        folder: Of the files of runs and samples.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.yardsticks: dict[str, Yardstick] = {}
        self.aims: dict[tuple[str, float], tuple[torch.Tensor, float]] = {}

    def yardstick(self, prompt: str) -> Yardstick:
        """The true instances of a prompt."""
        if prompt not in self.yardsticks:
            name, colour, _ = parse_prompt(prompt)
            camera = Orbit(*(torch.tensor([v]) for v in (AZIMUTH, ELEVATION, DISTANCE, FOVY)))
            self.yardsticks[prompt] = Yardstick(name, colour, camera, load_judges(name))
        return self.yardsticks[prompt]

    def aim(self, prompt: str, scale: float) -> tuple[torch.Tensor, float]:
        """What VSD aims at: features of the prior's samples at a scale, and their diversity."""
        if (prompt, scale) not in self.aims:
            drawn = samples(prompt, scale, SAMPLES, 1, self.folder)
            own = self.yardstick(prompt).measure(drawn, whole_looks=False)
            self.aims[prompt, scale] = features_of(drawn, self.yardstick(prompt).judges.parts), own.diversity
        return self.aims[prompt, scale]

    def row(self, setting: Setting, pictures: Pictures, run: dict[str, float]) -> dict:
        """The figures of one set of pictures, of a run or of the prior (kind "prior")."""
        features, diversity = self.aim(setting.prompt, setting.scale)
        judge = self.yardstick(setting.prompt).judges.parts
        distance = kid(features_of(pictures, judge), features)
        figures = asdict(self.yardstick(setting.prompt).measure(pictures, whole_looks=False))
        return asdict(setting) | {
            "kind": method_of(setting),
            "kid_prior": distance.value if distance else None,
            "kid_prior_error": distance.error if distance else None,
            "diversity_prior": None if figures["diversity"] is None else figures["diversity"] / diversity,
            **{key: figures[key] for key in ("part_recall", "false_parts", "sharpness", "patch_distance", "kid")},
            **{key: run.get(key) for key in RUN},
        }


def run_all(
    title: str, runs: list[Setting], table: Table, own: Own | None = None
) -> tuple[list[dict], dict[Setting, torch.Tensor]]:
    """Runs and measures settings.

    Args:
        title: Of what they belong to, for the progress.
        runs: The settings.
        table: Measures them; its folder has their files.
        own: Guidances of the caller's own; None for none.

    Returns:
        One row per run; and the pictures (n, 3, S, S) of the first seed's runs.
    """
    rows, shown = [], {}
    for number, setting in enumerate(runs, 1):
        pictures, run = particles(setting, table.folder, own)
        rows.append(table.row(setting, pictures, run))
        if setting.seed == 0:
            shown[setting] = pictures.rgb[:, 0]
        print(f"{title} {number}/{len(runs)}  {setting.key}  {run['seconds']:.0f} s", flush=True)
    return rows, shown


def measure_part(title: str, runs: list[Setting], folder: Path) -> tuple[list[dict], dict[Setting, torch.Tensor]]:
    """Runs and measures the settings of a part that has a report of its own.

    Args:
        title: Of the part, for the progress.
        runs: The settings.
        folder: Of their files.

    Returns:
        One row per run; and the pictures (n, 3, S, S) of the first seed's runs, then the prior's samples (kind "prior")
        of every prompt and scale among them.
    """
    rows, shown = run_all(title, runs, Table(folder))
    for prompt, scale in dict.fromkeys((setting.prompt, setting.scale) for setting in shown):
        prior = Setting(prompt, "prior", scale, SAMPLES, steps=0)
        shown[prior] = samples(prompt, scale, SAMPLES, 1, folder).rgb[:, 0]
    return rows, shown


def measure(plan: Plan, folder: Path, own: Own | None = None) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Runs and measures a plan.

    Args:
        plan: The runs.
        folder: Of their files.
        own: Guidances of the caller's own, which the plan names; None for none.

    Returns:
        One row per run, those of the prior's second sets of samples first; and by method and scale a row of pictures
        (H, W, 3) of the first seed.
    """
    table, rows, strips, runs = Table(folder), [], {}, settings(plan)
    for prompt, scale, count in product(dict.fromkeys(s.prompt for s in runs), plan.scales, plan.particles):
        for seed in range(plan.seeds):
            setting = Setting(prompt, "prior", scale, count, seed, plan.steps)
            chosen = torch.arange(seed * count, (seed + 1) * count) % SAMPLES
            pictures = samples(prompt, scale, SAMPLES, 2, folder)[chosen]
            rows.append(table.row(setting, pictures, {}))
            if seed == 0 and count == plan.particles[0]:
                strips.setdefault(f"prior {scale:g}, {prompt}", strip(pictures.rgb[:, 0]))
    ran, shown = run_all("2D", runs, table, own)
    for setting, pictures in shown.items():
        if setting.particles == plan.particles[0]:
            strips.setdefault(f"{method_of(setting)} {setting.scale:g}, {setting.prompt}", strip(pictures))
    return rows + ran, strips
