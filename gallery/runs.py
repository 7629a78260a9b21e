"""What lies in a run folder: stages, particles, curves, settings, measures, files."""

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.errors import InputError
from gallery.curves import Curve, read_curves
from lightning_modules.dream import FINISHED, SECONDS
from lightning_modules.run.folder import CONFIG, DREAM, LAST
from lightning_modules.wish import STAGES

# The keys of dream.yaml in the order in which they are shown, and what they are called.
WORDS = {"preset": "preset", "particles": "particles", "seed": "seed", "mesh": "mesh", "overrides": "options"}
METRICS, SCORE, SHEET = "metrics.csv", "score.json", "score.png"


@dataclass(frozen=True)
class Part:
    """What one stage has left in its folder.

    Args:
        name: Of the stage, such as "nerf".
        folder: Where it lies.
        settings: Its configuration, flat, such as {"model.lr": "0.01"}.
        curves: Of metrics.csv.
        meshes: GLB files by particle.
        turntables: Videos by particle.
        contacts: Contact sheets by particle.
        strips: Validation strips by particle, the earliest first.
        image: Of the 2D stage, the picture of all particles.
        files: To download, the meshes first.
        seconds: How long it took, where that is known.
        unfinished: Whether `dream` has still to finish it.
    """

    name: str
    folder: Path
    settings: dict[str, str]
    curves: list[Curve]
    meshes: dict[int, Path]
    turntables: dict[int, Path]
    contacts: dict[int, Path]
    strips: dict[int, list[Path]]
    image: Path | None
    files: list[Path]
    seconds: float | None
    unfinished: bool


@dataclass(frozen=True)
class Run:
    """A run of `dream`, or of a single stage.

    Args:
        folder: Where it lies.
        prompt: What was asked for.
        wish: Further words of dream.yaml, or the seed of a single stage's run.
        parts: Of its stages, in the order in which they ran.
        measures: Of evaluation.score, by name.
        sheet: The picture that evaluation.score has drawn.
        notes: What is missing or damaged, in sentences.
    """

    folder: Path
    prompt: str
    wish: dict[str, str]
    parts: list[Part]
    measures: dict[str, str]
    sheet: Path | None
    notes: list[str]

    @property
    def seconds(self) -> float | None:
        """How long all its stages took, None where one is not known."""
        times = [part.seconds for part in self.parts]
        return None if None in times or not times else sum(times)

    @property
    def meshes(self) -> list[tuple[Part, int, Path]]:
        """Stage, particle and file of every mesh, those of the last stage first."""
        return [(part, i, file) for part in reversed(self.parts) for i, file in part.meshes.items()]


def find_runs(folders: list[Path]) -> list[Path]:
    """The run folders that are meant.

    Args:
        folders: Run folders of `dream` or of a stage, or folders that hold some at any depth.

    Returns:
        The run folders, without repetition; a folder of `dream` is one run.

    Raises:
        InputError: A folder is missing or holds no run.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name a run folder, or a folder of runs")
        before = len(found)
        for place, inside, files in os.walk(folder.absolute()):
            if DREAM in files or CONFIG in files:
                found.append(Path(place))
                inside.clear()
            inside.sort()
        if len(found) == before:
            raise InputError(
                f"{folder}: no run in it, neither {DREAM} nor {CONFIG}; name the folder that a run printed"
            )
    return list(dict.fromkeys(found))


def read_run(folder: Path) -> Run:
    """Reads a run folder, whatever of it is there.

    Args:
        folder: With dream.yaml, or with config.yaml.

    Returns:
        The run; what is missing or damaged stands in its notes.
    """
    notes: list[str] = []
    if (folder / DREAM).is_file():
        wish = _mapping(folder / DREAM, notes)
        prompt = str(wish.pop("prompt", "")) or folder.name
        parts = []
        stages = STAGES if wish.get("mesh") is None else STAGES[-1:]  # a given mesh is textured alone
        for stage in stages:
            if (folder / stage / CONFIG).is_file():
                parts.append(_read_part(stage, folder / stage, notes))
            else:
                notes.append(f"{stage} has not run yet.")
        waits = [part.name for part in parts if part.unfinished]
        notes += [f"{stage} has not finished." for stage in waits]
        if len(parts) < len(stages) or waits:
            notes.append("dream --resume with this folder runs what is missing.")
    else:
        part = _read_part(None, folder, notes)
        prompt = part.settings.get("prompt") or folder.name
        wish, parts = {"seed": part.settings.get("seed_everything")}, [part]
    wish = {WORDS.get(key, key): _text(wish[key]) for key in [*WORDS, *wish] if wish.get(key) not in (None, [])}
    places = [folder, *(part.folder for part in reversed(parts) if part.folder != folder)]
    measures = next((_measures(file, notes) for p in places if (file := p / SCORE).is_file()), {})
    sheet = next((file for p in places if (file := p / SHEET).is_file()), None)
    return Run(folder, prompt, wish, parts, measures, sheet, notes)


def _text(value: object) -> str:
    """A value of dream.yaml, options as one types them; of a path the name alone, since pages are handed on."""
    if isinstance(value, list):
        return shlex.join(map(_text, value))
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def _read_part(name: str | None, folder: Path, notes: list[str]) -> Part:
    """A stage's run; `name` is that in a folder of `dream`, None for a run by itself."""
    settings = flat(_mapping(folder / CONFIG, notes))
    shown = name or re.sub("Stage$", "", settings.get("model", "").rpartition(".")[2]).lower() or folder.name
    curves, damage = read_curves(folder / METRICS) if (folder / METRICS).is_file() else ([], [f"no {METRICS}."])
    notes += [f"{shown}: {words}" for words in damage]
    strips: dict[int, list[Path]] = {}
    for file in sorted((folder / "validation").glob("particle*-step*.png")):
        if number := re.fullmatch(r"particle(\d+)-step\d+", file.stem):
            strips.setdefault(int(number[1]), []).append(file)
    files = [file for file in sorted(folder.glob("*.*")) if file.is_file() and file.name != "index.html"]
    files += [folder / LAST] if (folder / LAST).is_file() else []
    image = folder / "image.png"
    return Part(
        name=shown,
        folder=folder,
        settings=settings,
        curves=curves,
        meshes=_by_particle(folder, "mesh", ".glb"),
        turntables=_by_particle(folder, "turntable", ".mp4"),
        contacts=_by_particle(folder, "contact", ".png"),
        strips=strips,
        image=image if image.is_file() else None,
        files=sorted(files, key=lambda file: file.suffix != ".glb"),
        seconds=_seconds(folder, notes),
        unfinished=name is not None and not (folder / FINISHED).exists(),
    )


def _by_particle(folder: Path, kind: str, ending: str) -> dict[int, Path]:
    found = {}
    for file in folder.glob(f"{kind}-particle*{ending}"):
        if number := re.fullmatch(rf"{kind}-particle(\d+)", file.stem):
            found[int(number[1])] = file
    return dict(sorted(found.items()))


def _seconds(folder: Path, notes: list[str]) -> float | None:
    if not (folder / SECONDS).is_file():
        return None
    try:
        return float((folder / SECONDS).read_text(encoding="utf-8"))
    except ValueError:
        notes.append(f"{folder.name}/{SECONDS} is damaged.")
        return None


def _mapping(file: Path, notes: list[str]) -> dict:
    """A YAML file; empty, with a note, when it is damaged."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict):
        notes.append(f"{file.parent.name}/{file.name} is damaged.")
        return {}
    return found


def _measures(file: Path, notes: list[str]) -> dict[str, str]:
    """The figures of evaluation.score --json, those that apply."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        notes.append(f"{file.name} is damaged.")
        return {}
    return {
        str(key): f"{value:.3f}" if isinstance(value, float) else str(value)
        for key, value in found.items()
        if key != "run" and value is not None
    }


def flat(settings: dict, prefix: str = "") -> dict[str, str]:
    """A configuration without levels.

    Args:
        settings: As in config.yaml.
        prefix: Of the keys.

    Returns:
        Text by dotted key, without "init_args", "class_path" and what is null; a class stands at its own key.
    """
    out = {}
    for key, value in settings.items():
        name = prefix if key == "class_path" else f"{prefix}.{key}".strip(".")
        if key == "init_args":
            name = prefix
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            out |= flat(value, name)
        elif value is not None:
            out[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return out
