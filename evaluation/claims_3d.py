"""The claims in 3D: which NeRF runs are measured, and their rows (see `evaluation.claims`)."""

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from torch import Tensor

from evaluation.claims_pictures import strip
from evaluation.claims_report import RUN
from evaluation.kid import kid
from evaluation.measures import Yardstick, features_of, load_judges
from evaluation.particles_3d import Setting3D, particles_3d
from evaluation.pictures import Pictures, look_cameras
from evaluation.prior_samples import prior_samples
from evaluation.runs import DISTANCE, FOVY
from evaluation.truth_distance import VIEWS
from toybox.world.captions import parse_prompt
from vsd.prior import TOYBOX


@dataclass(frozen=True)
class Plan3D:
    """Which runs a table has: all combinations.

    Args:
        prompts: Objects with colours.
        kinds: Methods, keys of particles_3d.KINDS.
        scales: Of classifier-free guidance.
        particles: Numbers of particles.
        seeds: How many seeds.
        steps: Of each particle.
        equal_time: Whether SDS runs once more for every VSD run, with as many steps as take as long as VSD.
    """

    prompts: tuple[str, ...]
    kinds: tuple[str, ...]
    scales: tuple[float, ...]
    particles: tuple[int, ...]
    seeds: int
    steps: int = 900
    equal_time: bool = True


PROMPTS = ("a yellow duck", "a white snowman", "a red car", "a red house")
FULL = Plan3D(PROMPTS, ("sds", "vsd", "vsd-0.75"), (1.0, 3.0, 7.5), (1, 4, 8), 5)
QUICK = Plan3D(("a yellow duck",), ("sds", "vsd"), (1.0, 3.0, 7.5), (4,), 2, steps=225, equal_time=False)


def settings(plan: Plan3D) -> list[Setting3D]:
    """The runs of a plan with equal steps, seeds last, so that a table that was stopped has rows of all methods."""
    combinations = product(range(plan.seeds), plan.prompts, plan.particles, plan.scales, plan.kinds)
    return [Setting3D(prompt, kind, scale, n, seed, plan.steps) for seed, prompt, n, scale, kind in combinations]


class Table3D:
    """Measures runs, and the prior's samples beside them."""

    def __init__(self):
        self.cameras = look_cameras(VIEWS, DISTANCE, FOVY)
        self.yardsticks: dict[str, tuple[Yardstick, Pictures]] = {}
        self.features: dict[str, Tensor] = {}

    def yardstick(self, prompt: str) -> tuple[Yardstick, Pictures]:
        """The true instances of a prompt, and the prior's samples."""
        if prompt not in self.yardsticks:
            name, colour, _ = parse_prompt(prompt)
            yardstick = Yardstick(name, colour, self.cameras, load_judges(name))
            self.yardsticks[prompt] = yardstick, prior_samples(TOYBOX, name, colour, self.cameras)
        return self.yardsticks[prompt]

    def sample_features(self, prompt: str) -> Tensor:
        """Features (N, V, D) of the prior's samples of a prompt."""
        if prompt not in self.features:
            yardstick, samples = self.yardstick(prompt)
            self.features[prompt] = features_of(samples, yardstick.judges.parts)
        return self.features[prompt]

    def row(self, setting: Setting3D, pictures: Pictures, run: dict[str, float], chosen: slice = slice(None)) -> dict:
        """The figures of a set of pictures.

        Args:
            setting: The run, or kind "prior".
            pictures: n objects in eight views.
            run: What the run tells of itself.
            chosen: Which of the prior's samples KID is taken to.
        """
        yardstick, _ = self.yardstick(setting.prompt)
        distance = kid(features_of(pictures, yardstick.judges.parts), self.sample_features(setting.prompt)[chosen])
        figures = asdict(yardstick.measure(pictures, whole_looks=setting.kind != "prior"))
        measured = ("diversity", "part_recall", "false_parts", "sharpness", "janus", "patch_distance", "truth_score")
        return (
            asdict(setting)
            | {"kid_prior": distance.value if distance else None}
            | {key: figures[key] for key in measured}
            | {key: run.get(key) for key in RUN}
        )


def particles_shown(rgb: Tensor) -> Tensor:
    """Up to eight pictures that show as many particles, each from as many sides, the front left first.

    Args:
        rgb: n particles in V views, (n, V, 3, S, S).

    Returns:
        (at most 8, 3, S, S), particle by particle.
    """
    count, views = rgb.shape[:2]
    sides = [(1 + k) % views for k in range(max(1, 8 // count))]
    return rgb[:8, sides].flatten(0, 1)


def measure(plan: Plan3D, folder: Path) -> tuple[list[dict], dict[str, Tensor]]:
    """Runs and measures a plan.

    Args:
        plan: The runs.
        folder: Of their files.

    Returns:
        One row per run, after the prior's; and by method and scale a row of pictures (H, W, 3) of the first seed.
    """
    table, rows, strips = Table3D(), [], {}
    for prompt in plan.prompts:
        samples = table.yardstick(prompt)[1]
        half = len(samples) // 2
        prior = Setting3D(prompt, "prior", float("nan"), half, 0, 0)
        rows.append(table.row(prior, samples[:half], {}, slice(half, None)))
        strips[f"prior, {prompt}"] = strip(samples.rgb[0])
    runs = settings(plan)
    seconds: dict[Setting3D, float] = {}
    for number, setting in enumerate(runs, 1):
        pictures, run = particles_3d(setting, folder)
        seconds[setting] = run["seconds"]
        rows.append(table.row(setting, pictures, run))
        if setting.seed == 0 and setting.particles == plan.particles[0]:
            strips[f"{setting.scale:g} {setting.kind}, {setting.prompt}"] = strip(particles_shown(pictures.rgb))
        print(f"3D {number}/{len(runs)}  {setting.key}  {run['seconds']:.0f} s", flush=True)
    for setting in runs if plan.equal_time else []:
        as_sds = Setting3D(**asdict(setting) | {"kind": "sds"})
        if setting.kind == "vsd" and as_sds in seconds:
            steps = max(1, round(setting.steps * seconds[setting] / seconds[as_sds]))
            longer = Setting3D(**asdict(as_sds) | {"steps": steps})
            pictures, run = particles_3d(longer, folder)
            rows.append(table.row(longer, pictures, run) | {"kind": "sds, equal time"})
            print(f"3D equal time  {longer.key}  {run['seconds']:.0f} s", flush=True)
    return rows, strips
