"""The part of a run's page that is numbers: measures, curves, settings."""

from gallery.curves import chart
from gallery.markup import Markup, element, table
from gallery.pieces import duration, figure, picture, section
from gallery.runs import Part, Run

# How the names of the curves end that are shown at once.
FIRST_CURVES = ("guidance", "loss", "phi_ratio", "phi_calibration")


def measures(run: Run) -> Markup | None:
    """The figures of evaluation.score.

    Args:
        run: The run.

    Returns:
        HTML, None where it has not been measured.
    """
    if not run.measures and run.sheet is None:
        return None
    pairs = [element("div", element("dt", k.replace("_", " ")), element("dd", v)) for k, v in run.measures.items()]
    sheet = None
    if run.sheet:
        alt = "Rows: a true instance, samples of the prior, the particles; columns: views"
        sheet = figure(picture(run.sheet, run.folder, alt), alt, class_="score")
    return section("measures", "Measures", element("dl", pairs, class_="facts figures") if pairs else None, sheet)


def curves(run: Run) -> Markup | None:
    """The losses of every stage and phi's health; what else was logged is folded.

    Args:
        run: The run.

    Returns:
        HTML, None where nothing was logged.
    """
    groups = []
    for part in run.parts:
        if not part.curves:
            continue
        first = [curve for curve in part.curves if curve.name.endswith(FIRST_CURVES)]
        rest = [chart(curve, part.name) for curve in part.curves if curve not in first]
        more = [element("details", element("summary", f"More of {part.name} ({len(rest)})"), _charts(rest))]
        drawn = _charts([chart(curve, part.name) for curve in first])
        groups.append(element("div", element("h3", part.name), drawn, more if rest else None))
    return section("curves", "Curves", groups) if groups else None


def _charts(figures: list[Markup]) -> Markup:
    return element("div", figures, class_="charts")


def summary(part: Part) -> dict[str, str]:
    """The settings of a stage that say most.

    Args:
        part: The stage.

    Returns:
        Text by name, those that it has.
    """
    keys = part.settings
    guidances = [key for key, value in keys.items() if value.endswith("VSDGuidance")]

    def each(name: str) -> str:
        return ", ".join(dict.fromkeys(keys[f"{key}.{name}"] for key in guidances if f"{key}.{name}" in keys))

    words = {
        "steps": keys.get("trainer.max_steps", ""),
        "time": duration(part.seconds) if part.seconds is not None else "",
        "particles": keys.get("model.particles", ""),
        "guidance": each("kind"),
        "scale": each("scale"),
        "prior": each("model"),
    }
    return {name: value for name, value in words.items() if value}


def settings(run: Run) -> Markup | None:
    """The settings, a column per stage: the main ones, and folded all of them.

    Args:
        run: The run.

    Returns:
        HTML, None where there are none.
    """
    parts = [part for part in run.parts if part.settings]
    if not parts:
        return None
    names = ["", *(part.name for part in parts)]
    short = _side_by_side([summary(part) for part in parts])
    full = _side_by_side([part.settings for part in parts])
    return section(
        "settings",
        "Settings",
        table(names, short, "The main settings of each stage"),
        element(
            "details",
            element("summary", f"All settings ({len(full)})"),
            table(names, full, "All settings of each stage"),
        ),
    )


def _side_by_side(columns: list[dict[str, str]]) -> list[list[str]]:
    keys = dict.fromkeys(key for column in columns for key in column)
    return [[key, *(column.get(key, "–") for column in columns)] for key in keys]
