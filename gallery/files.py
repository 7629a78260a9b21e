"""What a page consists of: index.html, and index_files beside it with three.js and the meshes as scripts.

Browsers let a page that was opened from a disk load scripts, pictures and videos beside it, but neither fetch files nor
load modules. A mesh is therefore a script that holds the bytes of its GLB file.
"""

import base64
from functools import cache
from pathlib import Path
from shutil import copyfile

from common.errors import InputError
from common.files import atomic_write
from gallery.markup import Markup, element, join

PAGE, BESIDE = "index.html", "index_files"
SOURCE = Path(__file__).parent
THREE = "three.min.js"
GENERATOR = "prolific gallery"


def mesh_script(file: Path, folder: Path) -> Path:
    """Where the script of a mesh lies.

    Args:
        file: GLB.
        folder: Of the run's page.

    Returns:
        The script.
    """
    return folder / BESIDE / f"{file.parent.name}-{file.stem}.js"


def write_mesh(file: Path, folder: Path) -> None:
    """Writes a mesh as a script, which leaves its bytes, in base64, at its own element.

    Args:
        file: GLB.
        folder: Of the run's page.
    """
    with atomic_write(mesh_script(file, folder)) as part:
        part.write_text(f'document.currentScript.glb = "{base64.b64encode(file.read_bytes()).decode()}";\n')


@cache
def _own(name: str) -> str:
    return (SOURCE / name).read_text(encoding="utf-8")


def write_page(path: Path, title: str, body: Markup) -> Path:
    """Writes a page, and three.js beside it.

    Args:
        path: Of the page.
        title: Of the window.
        body: What it shows.

    Returns:
        The path.

    Raises:
        InputError: There is a page of another program.
    """
    if path.exists() and GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise InputError(f"{path}: another program wrote it; move it away, or name another folder with --out")
    with atomic_write(path.parent / BESIDE / THREE) as part:
        copyfile(SOURCE / "three" / THREE, part)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=GENERATOR),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),  # or browsers ask for /favicon.ico
        element("title", title),
        element("style", Markup(_own("style.css"))),
    )
    scripts = [
        element("script", src=f"{BESIDE}/{THREE}"),
        element("script", Markup(_own("viewer.js"))),
    ]
    page = join(Markup("<!doctype html>\n"), element("html", head, element("body", body, scripts), lang="en"))
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")
    return path
