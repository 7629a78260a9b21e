"""The numbers of metrics.csv as curves, drawn in SVG."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from gallery.markup import Markup, element

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 150, 46, 20, 8  # user units of a chart and its margins
POINTS = 240  # at most, in a drawn line
LOG_FROM = 50.0  # ratio of the largest to the smallest value from which the axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """One column of metrics.csv.

    Args:
        name: Of the column.
        steps: Of the values, as they stand in the file.
        values: Finite numbers.
        lost: How many values are not finite.
    """

    name: str
    steps: list[int]
    values: list[float]
    lost: int = 0


def read_curves(file: Path) -> tuple[list[Curve], list[str]]:
    """The curves of a run.

    Args:
        file: metrics.csv, which may be damaged.

    Returns:
        A curve per column with values, in the file's order, without "step" and "epoch"; and what is wrong with the
        file, in sentences.
    """
    try:
        with open(file, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [f"{file.name} cannot be read: {error}."]
    if "step" not in columns:
        return [], [f"{file.name} is damaged: it has no column 'step'."]
    whole = [numbers for row in rows if (numbers := _numbers(row)) is not None]
    notes = []
    if damaged := len(rows) - len(whole):
        notes.append(f"{file.name}: {damaged} damaged line{'s' * (damaged > 1)} left out.")
    curves = []
    for name in columns:
        points = [(int(row["step"]), row[name]) for row in whole if name in row]
        finite = [(step, value) for step, value in points if math.isfinite(value)]
        if points and name not in ("step", "epoch"):
            curves.append(Curve(name, [s for s, _ in finite], [v for _, v in finite], len(points) - len(finite)))
    return curves, notes


def _numbers(row: dict) -> dict[str, float] | None:
    """The filled cells of a row; None for a damaged one."""
    if None in row or None in row.values() or not row["step"].isdigit():
        return None
    try:
        return {name: float(cell) for name, cell in row.items() if cell != ""}
    except ValueError:
        return None


OF_PHI = {  # how the names of phi's columns end
    "score_loss": "phi's loss",
    "phi_ratio": "phi's error over the prior's, good below 1",
    "phi_calibration": "phi's calibration, right at 1",
    "phi_lr": "phi's learning rate",
}


def title(name: str) -> str:
    """A column's name in words.

    Args:
        name: As in metrics.csv, such as "train/vsd_score_loss".

    Returns:
        Words, such as "phi's loss (vsd)".
    """
    group, _, rest = name.rpartition("/")
    for ending, words in OF_PHI.items():
        if group == "train" and rest.endswith(f"_{ending}"):
            return f"{words} ({rest.removesuffix(f'_{ending}')})"
    if group == "train" and rest.endswith("_loss"):
        return f"loss ({rest.removesuffix('_loss')})"
    return {"train/guidance": "loss of the guidance", "train/penalty": "other losses"}.get(name, name)


def chart(curve: Curve, stage: str) -> Markup:
    """A curve as a figure: the values pale, their running mean strong.

    Args:
        curve: What to draw.
        stage: Its stage, for the description.

    Returns:
        HTML.
    """
    words = title(curve.name)
    lost = f"{curve.lost} value{'s' * (curve.lost > 1)} not finite" if curve.lost else ""
    if len(curve.values) < 2:
        only = "no finite value"
        if curve.values:
            only = f"{curve.values[0]:.3g} at step {curve.steps[0]}, the only value"
        parts = element("p", "; ".join(filter(None, (only, lost))), class_="only")
        return element("figure", parts, element("figcaption", words), class_="chart")
    said = f"{stage}: {words}, from {curve.values[0]:.3g} to {curve.values[-1]:.3g} in {curve.steps[-1]} steps"
    steps, values = _thin(curve.steps), _thin(curve.values)
    log = min(values) > 0 and max(values) / min(values) > LOG_FROM
    caption = element(
        "figcaption",
        words,
        ", logarithmic" if log else None,
        element("span", f" ({lost})", class_="bad") if lost else None,
    )
    return element("figure", _svg(curve, steps, values, log, said), caption, class_="chart")


def _svg(curve: Curve, steps: list[float], values: list[float], log: bool, said: str) -> Markup:
    low, high = min(values), max(values)
    scale = math.log10 if log else float
    bottom, top = scale(low), scale(high)
    first, last = steps[0], steps[-1]

    def point(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 6) * (step - first) / ((last - first) or 1)
        part = (scale(value) - bottom) / (top - bottom) if top > bottom else 0.5
        return x, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * part

    def line(heights: list[float], kind: str) -> Markup:
        points = (point(step, value) for step, value in zip(steps, heights, strict=True))
        return element("polyline", class_=kind, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))

    parts = []
    middle = math.sqrt(low * high) if log else low + (high - low) / 2
    for value in dict.fromkeys((low, middle, high)):
        x, y = point(first, value)
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - 6, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(element("text", _tick(value), x=LEFT - 5, y=f"{y + 3.5:.1f}", text_anchor="end"))
    parts.append(element("text", str(curve.steps[0]), x=LEFT, y=HEIGHT - 5))
    parts.append(element("text", f"step {curve.steps[-1]}", x=WIDTH - 6, y=HEIGHT - 5, text_anchor="end"))
    parts += [line(values, "raw"), line(_smooth(values), "mean")]
    return element("svg", element("title", said), parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said)


def _tick(value: float) -> str:
    """A number that fits beside the axis."""
    words = f"{value:.3g}"
    return words if len(words) <= 6 else f"{value:.0e}"


def _thin(numbers: list) -> list[float]:
    """At most POINTS numbers: means of runs of equal length."""
    size = math.ceil(len(numbers) / POINTS)
    runs = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return [sum(run) / len(run) for run in runs]


def _smooth(values: list[float]) -> list[float]:
    """Exponential running means, over about a tenth of the values."""
    keep = 1 - 1 / max(1.0, len(values) / 10)
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + value, keep * weight + 1
        out.append(mean / weight)
    return out
