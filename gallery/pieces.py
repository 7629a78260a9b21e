"""Pieces of which pages consist: sections, meshes, videos, pictures, links."""

from pathlib import Path

from gallery.markup import Markup, address, element

SHADINGS = {"colours": "Colours", "light": "Lit", "surface": "Surface", "normals": "Normals"}


def section(name: str, title: str, *children: Markup | None | list) -> Markup:
    """A part of the page with a heading.

    Args:
        name: Its id.
        title: Its heading.
        *children: What it holds.

    Returns:
        HTML.
    """
    return element(
        "section", element("h2", title, id=f"{name}-title"), children, id=name, aria_labelledby=f"{name}-title"
    )


def duration(seconds: float | None) -> str:
    """Words for a time, "–" where it is not known.

    Args:
        seconds: The time.

    Returns:
        Such as "6 min 05 s".
    """
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def notes(sentences: list[str]) -> Markup | None:
    """What is missing or damaged.

    Args:
        sentences: A list item each.

    Returns:
        HTML, None where nothing is.
    """
    if not sentences:
        return None
    return element("ul", [element("li", words) for words in sentences], class_="notes", aria_label="Notes")


def shading() -> Markup:
    """The buttons that choose how meshes are drawn.

    Returns:
        HTML.
    """
    buttons = [
        element("button", words, type="button", data_shade=name, aria_pressed="true" if name == "colours" else "false")
        for name, words in SHADINGS.items()
    ]
    reset = element("button", "Reset the view", type="button", data_reset=True)
    return element("div", buttons, reset, class_="bar", role="group", aria_label="How the meshes are drawn")


def canvas(source: str, label: str) -> Markup:
    """A mesh to orbit.

    Args:
        source: Address of its script, see `gallery.files.mesh_script`.
        label: What it shows.

    Returns:
        HTML.
    """
    words = f"{label}, a mesh; arrow keys turn it, plus and minus zoom"
    return element("canvas", words, class_="view", data_mesh=source, tabindex=0, role="application", aria_label=words)


def link(file: Path, folder: Path, words: str | None = None) -> Markup:
    """A link to a file to download.

    Args:
        file: The file.
        folder: Of the page.
        words: By default the file's name.

    Returns:
        HTML.
    """
    return element("a", words or file.name, href=address(file, folder), download=file.name)


def video(file: Path, folder: Path, label: str) -> Markup:
    """A turntable, with the browser's controls until viewer.js turns it into a button.

    Args:
        file: MP4.
        folder: Of the page.
        label: What it shows.

    Returns:
        HTML.
    """
    return element(
        "video",
        element("a", label, href=address(file, folder)),
        src=address(file, folder),
        controls=True,
        loop=True,
        muted=True,
        playsinline=True,
        preload="metadata",
        aria_label=f"{label}: colour, then normals; play or pause",
    )


def picture(file: Path, folder: Path, alt: str) -> Markup:
    """A picture, loaded when it comes into sight.

    Args:
        file: PNG.
        folder: Of the page.
        alt: What it shows.

    Returns:
        HTML.
    """
    image = element("img", src=address(file, folder), alt=alt, loading="lazy", decoding="async")
    return element("a", image, href=address(file, folder))


def figure(shown: Markup | list[Markup], words: str, class_: str | None = None) -> Markup:
    """What is shown, with words below.

    Args:
        shown: HTML.
        words: The words.
        class_: Of the figure.

    Returns:
        HTML.
    """
    return element("figure", shown, element("figcaption", words), class_=class_)


def size(count: int) -> str:
    """Words for the size of a file.

    Args:
        count: Bytes.

    Returns:
        Such as "1.3 MB".
    """
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"
