"""The page of many runs: their particles in a grid, their measures, and the settings in which they differ."""

import os
from pathlib import Path

from gallery.files import PAGE, mesh_script, write_page
from gallery.markup import Markup, address, element, join, table
from gallery.pieces import canvas, duration, figure, notes, picture, section, shading, video
from gallery.runs import Run


def write_compare_page(runs: list[Run], folder: Path) -> Path:
    """Writes index.html for many runs.

    Args:
        runs: At least one.
        folder: Where to; created.

    Returns:
        The page.

    Raises:
        InputError: There is an index.html of another program.
        OSError: The folder is not writable.
    """
    count = sum(len(_particles(run)) for run in runs)
    title = f"{len(runs)} runs, {count} particles"
    together = element(
        "label", element("input", type="checkbox", data_together=True, checked=True), " Turn all together"
    )
    body = join(
        element("header", element("p", "Comparison", class_="kind"), element("h1", title)),
        element(
            "main",
            section(
                "runs",
                "Particles",
                element("div", shading(), together, class_="bars") if any(run.meshes for run in runs) else None,
                element("p", role="status", class_="status"),
                element("div", [card(run, folder) for run in runs], class_="grid"),
            ),
            figures(runs, folder),
            differences(runs, folder),
        ),
    )
    return write_page(folder / PAGE, title, body)


def name_of(run: Run, folder: Path) -> str:
    """Where a run lies, seen from the page.

    Args:
        run: The run.
        folder: Of the page.

    Returns:
        A relative path.
    """
    return Path(os.path.relpath(run.folder, folder)).as_posix()


def _particles(run: Run) -> list[int]:
    """The particles that the last stage which shows any shows."""
    for part in reversed(run.parts):
        if found := {**part.meshes, **part.turntables, **part.contacts}:
            return sorted(found)
    return []


def card(run: Run, folder: Path) -> Markup:
    """A run in the grid: a cell per particle, with its mesh, or else its turntable.

    Args:
        run: The run.
        folder: Of the page.

    Returns:
        HTML.
    """
    cells = [cell(run, i, folder) for i in _particles(run)]
    cells += [
        picture(p.image, folder, f"{run.prompt}: particles, ancestral samples below") for p in run.parts if p.image
    ]
    words = [f"{key} {value}" for key, value in run.wish.items()]
    words += [duration(run.seconds)] if run.seconds is not None else []
    return element(
        "article",
        element("h3", element("a", run.prompt, href=address(run.folder / PAGE, folder))),
        element("p", name_of(run, folder), class_="path"),
        element("p", " · ".join(words), class_="hint"),
        element("div", cells or element("p", "Nothing to see yet."), class_="cells"),
        notes(run.notes),
        class_="card",
    )


def cell(run: Run, index: int, folder: Path) -> Markup:
    """One particle: its mesh or else its turntable, and its last contact sheet.

    Args:
        run: The run.
        index: Of the particle.
        folder: Of the page.

    Returns:
        HTML.
    """
    label = f"{run.prompt}, particle {index}"
    shown: list[Markup] = []
    for part in reversed(run.parts):
        if index in part.meshes:
            shown = [canvas(address(mesh_script(part.meshes[index], run.folder), folder), label)]
            break
        if index in part.turntables:
            shown = [video(part.turntables[index], folder, f"Turntable of {label}, {part.name}")]
            break
    sheets = [part.contacts[index] for part in run.parts if index in part.contacts]
    if sheets:
        alt = f"{label}: eight views from the front on, colour above, normals below"
        shown.append(picture(sheets[-1], folder, alt))
    return figure(shown, f"particle {index}")


def figures(runs: list[Run], folder: Path) -> Markup:
    """What can be compared in numbers, one row per run.

    Args:
        runs: The runs.
        folder: Of the page.

    Returns:
        HTML.
    """
    columns = [
        {"prompt": run.prompt, **run.wish, "time": duration(run.seconds), **_last_losses(run), **run.measures}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = [
        [name_of(run, folder), *(column.get(key, "–") for key in keys)]
        for run, column in zip(runs, columns, strict=True)
    ]
    head = ["run", *(key.replace("_", " ") for key in keys)]
    return section("figures", "Figures", table(head, rows, "Settings, time, last losses and measures of every run"))


def _last_losses(run: Run) -> dict[str, str]:
    """phi's loss at the end of every stage."""
    return {
        f"phi's loss, {part.name}": f"{curve.values[-1]:.3g}"
        for part in run.parts
        for curve in part.curves
        if curve.name.endswith("_score_loss") and curve.values
    }


def differences(runs: list[Run], folder: Path) -> Markup | None:
    """The settings in which runs differ that have the same stage, a column per run.

    Args:
        runs: The runs.
        folder: Of the page.

    Returns:
        HTML, None where all are alike.
    """
    columns = [{part.name: part.settings for part in run.parts} for run in runs]
    keys = dict.fromkeys((stage, key) for column in columns for stage in column for key in column[stage])
    rows = []
    for stage, key in keys:
        if len({column[stage].get(key) for column in columns if stage in column}) > 1:
            rows.append([f"{stage}: {key}", *(column.get(stage, {}).get(key, "–") for column in columns)])
    if not rows:
        return None
    head = ["setting", *(name_of(run, folder) for run in runs)]
    return section(
        "settings",
        "Settings",
        element(
            "details",
            element("summary", f"What differs ({len(rows)})"),
            table(head, rows, "Settings in which the runs differ"),
        ),
    )
