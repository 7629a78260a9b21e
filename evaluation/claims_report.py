"""The report of the claims: a table with intervals, paired tests and plots."""

from itertools import groupby
from math import comb, isnan
from pathlib import Path
from statistics import mean, stdev

from torch import Tensor

from common.files import atomic_write
from evaluation.claims_pictures import save_strips

FIGURES = {  # column: heading, whether larger is better
    "kid_prior": ("KID to the prior's samples", False),
    "diversity_prior": ("diversity over the prior's", True),
    "part_recall": ("part recall", True),
    "false_parts": ("false parts", False),
    "diversity": ("diversity over the truth's", True),
    "sharpness": ("sharpness", None),
    "janus": ("Janus rate", False),
    "truth_score": ("L1 score", None),
    "phi_ratio": ("phi's error over the prior's", None),
    "seconds": ("seconds", None),
}
TESTED = ("kid_prior", "diversity_prior", "diversity", "part_recall", "truth_score")
PLOTTED = ("kid_prior", "diversity_prior", "diversity", "part_recall", "sharpness")
RUN = ("seconds", "phi_ratio", "phi_calibration")  # what a run tells of itself
GROUP = ("prompt", "particles", "kind", "scale")


def interval(values: list[float]) -> str:
    """Mean and standard error of the mean, as text; a single value stands alone."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{mean(values):.3f} ± {stdev(values) / len(values) ** 0.5:.3f}"


def sign_test(wins: int, pairs: int) -> float:
    """The two-sided p-value of the sign test: so many wins among so many pairs without ties.

    Source: the binomial distribution with probability 1/2.
    """
    if pairs == 0:
        return 1.0
    tail = sum(comb(pairs, k) for k in range(max(wins, pairs - wins), pairs + 1)) / 2**pairs
    return min(1.0, 2 * tail)


def paired(rows: list[dict], column: str, larger: bool, more: str = "") -> list[str]:
    """Lines that compare VSD with SDS at equal scale, prompt, number of particles and seed.

    Args:
        rows: Of runs.
        column: Of the figure.
        larger: Whether larger is better.
        more: What both methods' names end in.

    Returns:
        One line per scale and one for all; none where there are no pairs.
    """
    keys = ("scale", "prompt", "particles", "seed")
    vsd, sds = (
        {tuple(row[k] for k in keys): row[column] for row in rows if row["kind"] == kind + more}
        for kind in ("vsd", "sds")
    )
    pairs = [(key[0], vsd[key], sds[key]) for key in vsd.keys() & sds.keys()]
    pairs = [(scale, a, b) for scale, a, b in pairs if a is not None and b is not None and a != b]
    lines = []
    for scale in (*sorted({scale for scale, _, _ in pairs}), None):
        wins = [(a > b) == larger for of, a, b in pairs if scale in (None, of)]
        if wins:
            which = "all" if scale is None else f"{scale:g}"
            p = sign_test(sum(wins), len(wins))
            lines.append(f"| {FIGURES[column][0]}{more} | {which} | {sum(wins)} of {len(wins)} | {p:.3g} |")
    return lines


def best_setting(rows: list[dict], name: str) -> tuple[str, float] | None:
    """The kind and scale of a method that come closest to the prior's samples, by the mean of their runs.

    Args:
        rows: Of runs.
        name: The method, with whatever its kinds have after a comma; None is returned where it has no run.
    """

    def distance(setting: tuple[str, float]) -> float:
        return mean(row["kid_prior"] for row in rows if (row["kind"], row["scale"]) == setting)

    settings = {(row["kind"], row["scale"]) for row in rows if row["kind"].split(",")[0] == name}
    return min(sorted(settings), key=distance, default=None)


def paired_at_best(rows: list[dict]) -> list[str]:
    """Lines that compare VSD with SDS, each at its own best scale, at equal prompt, number of particles and seed.

    SDS is taken with and without decay, and with equal time where that was run, whichever is best.

    Args:
        rows: Of runs.

    Returns:
        One line per tested figure; none without runs of both.
    """
    best = {name: best_setting(rows, name) for name in ("vsd", "sds")}
    if None in best.values():
        return []
    chosen = [
        row | {"kind": name, "scale": 0.0}
        for name, setting in best.items()
        for row in rows
        if (row["kind"], row["scale"]) == setting
    ]
    words = " against ".join(f"{kind}, scale {scale:g}" for kind, scale in best.values())
    lines = ["", f"Each method at its own best setting by KID ({words}; sign test):", ""]
    lines += ["| figure | | VSD better | p |", "|---|---|---|---|"]
    for column in TESTED:
        if column in rows[0]:
            lines += [line for line in paired(chosen, column, FIGURES[column][1] is not False) if "| all |" in line]
    return lines


def table(rows: list[dict]) -> list[str]:
    """Lines of Markdown: one row per prompt, number of particles, method and scale, with standard errors.

    Args:
        rows: Of runs, all with the same columns.
    """
    columns = {column: heading for column, (heading, _) in FIGURES.items() if column in rows[0]}
    lines = ["| prompt | particles | method | scale | runs | " + " | ".join(columns.values()) + " |"]
    lines.append("|---" * (5 + len(columns)) + "|")

    def order(row: dict) -> tuple:
        return tuple(str(row[key]) if key == "scale" else row[key] for key in GROUP)

    for _, group in groupby(sorted(rows, key=order), order):
        members = list(group)
        first, cells = members[0], []
        for column in columns:
            values = [row[column] for row in members if row[column] is not None]
            cells.append(interval(values) if values else "")
        scale = "" if isnan(first["scale"]) else f"{first['scale']:g}"
        head = f"| {first['prompt']} | {first['particles']} | {first['kind']} | {scale} | {len(members)} | "
        lines.append(head + " | ".join(cells) + " |")
    return lines


def grouped_table(rows: list[dict], keys: dict[str, str], figures: dict[str, str]) -> list[str]:
    """Lines of Markdown: one row per group of runs that differ in their seed alone, with standard errors.

    Args:
        rows: Of runs, all with the same columns.
        keys: Columns that tell groups apart, and their headings.
        figures: Columns of figures, and their headings.
    """
    lines = [f"| {' | '.join([*keys.values(), 'runs', *figures.values()])} |"]
    lines.append("|---" * (len(keys) + len(figures) + 1) + "|")

    def key(row: dict) -> tuple:
        return tuple(row[column] for column in keys)

    for values, group in groupby(sorted(rows, key=key), key):
        members = list(group)
        known = [[row[column] for row in members if row[column] is not None] for column in figures]
        cells = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        cells += [str(len(members)), *(interval(each) if each else "" for each in known)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def write_text(path: Path, lines: list[str]) -> None:
    """Writes lines to a file, and prints them."""
    text = "\n".join(lines) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def write_report(title: str, measured: tuple[list[dict], dict[str, Tensor]], folder: Path) -> None:
    """Writes TITLE.md, TITLE.png and TITLE-particles.png, and prints the table.

    Args:
        title: Of the files.
        measured: Rows and strips of pictures, see `evaluation.claims.measure`.
        folder: Where to.
    """
    rows, strips = measured
    lines = table(rows)
    same = []
    for column in TESTED:
        if column in rows[0]:
            for more in ("", ", decay"):
                same += paired(rows, column, FIGURES[column][1] is not False, more)
    if same:
        lines += ["", "VSD against SDS at the same scale, prompt, number of particles and seed (sign test):", ""]
        lines += ["| figure | scale | VSD better | p |", "|---|---|---|---|", *same]
    lines += paired_at_best([row for row in rows if row["kid_prior"] is not None])
    write_text(folder / f"{title}.md", lines)
    save_strips(dict(sorted(strips.items())), folder / f"{title}-particles.png")
    plot(rows, folder / f"{title}.png")


def plot(rows: list[dict], path: Path) -> None:
    """Figures over the scale, one line per method, with standard errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [column for column in PLOTTED if column in rows[0]]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4 * len(shown), 3.2))
    for axis, column in zip(axes, shown, strict=True):
        for kind in sorted({row["kind"] for row in rows}):
            of_kind = [r for r in rows if r["kind"] == kind and r[column] is not None and not isnan(r["scale"])]
            scales = sorted({row["scale"] for row in of_kind})
            values = [[row[column] for row in of_kind if row["scale"] == scale] for scale in scales]
            if values and all(values):
                errors = [stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0 for v in values]
                axis.errorbar(scales, [mean(v) for v in values], errors, label=kind, marker="o", capsize=3)
        axis.set_xscale("log")
        axis.set_xlabel("guidance scale")
        axis.set_title(FIGURES[column][0])
    # Few particles have no KID, so that the first axis can be empty.
    max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[0])).legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
