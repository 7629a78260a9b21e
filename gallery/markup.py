"""HTML in which every text is escaped unless it is markup already."""

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

VOID = ("img", "input", "link", "meta")  # elements without an end tag
LONG = 28  # characters of a table's cell from which it is broken into lines


class Markup(str):
    """Text that is HTML already and stays as it is."""


Child = str | Iterable["Child"] | None


def join(*children: Child) -> Markup:
    """Children as HTML.

    Args:
        *children: Text, which is escaped, Markup, which is not, iterables of both; None is left out.

    Returns:
        HTML.
    """
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(escape(child))
        elif child is not None:
            parts += [join(inner) for inner in child]
    return Markup("".join(parts))


def element(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """An HTML element.

    Args:
        name: Of the element.
        *children: See `join`.
        **attributes: Escaped. "_" at the end of a name is dropped, others are "-"; True is an attribute without a
            value, None and False are none.

    Returns:
        HTML.
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{escape(str(value))}"')
    end = "" if name in VOID else f"</{name}>"
    return Markup(f"<{' '.join(words)}>{join(*children)}{end}")


def table(head: list[str], rows: list[list[str]], caption: str) -> Markup:
    """A table that scrolls sideways where it is too wide.

    Args:
        head: Of the columns.
        rows: A cell per column; the first of a row is its head.
        caption: What the table shows.

    Returns:
        HTML.
    """
    lines = [
        element(
            "tr",
            element("th", first, scope="row", class_=_length(first)),
            [element("td", cell, class_=_length(cell)) for cell in cells],
        )
        for first, *cells in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", [element("th", name, scope="col") for name in head])),
            element("tbody", lines),
        ),
        class_="wide",
        tabindex=0,  # so that the keyboard scrolls it
        role="region",
        aria_label=caption,
    )


def _length(text: str) -> str | None:
    """The class of a cell, by which only long text is broken into lines."""
    return "long" if len(text) > LONG else None


def address(path: Path, page: Path) -> str:
    """The relative link to a file.

    Args:
        path: The file.
        page: The folder of the page.

    Returns:
        A URL, quoted.
    """
    return quote(Path(os.path.relpath(path, page)).as_posix())
