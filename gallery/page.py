"""The page of one run: index.html in its folder, with what it needs in index_files beside it."""

from collections.abc import Iterable
from pathlib import Path

from gallery.figures import curves, measures, settings
from gallery.files import PAGE, mesh_script, write_mesh, write_page
from gallery.markup import Markup, address, element, join
from gallery.pieces import canvas, duration, figure, link, notes, picture, section, shading, size, video
from gallery.runs import Run

ENDINGS = (".glb", ".obj", ".mtl", ".png")  # of a mesh's files
HINT = "Drag or use the arrow keys to turn, plus and minus to zoom; the wheel zooms once the view is in focus."


def write_run_page(run: Run) -> Path:
    """Writes index.html into a run folder.

    Args:
        run: What lies there.

    Returns:
        The page.

    Raises:
        InputError: There is an index.html of another program.
        OSError: The folder is not writable.
    """
    for *_, file in run.meshes:
        write_mesh(file, run.folder)
    body = join(
        element("header", element("p", "Run", class_="kind"), element("h1", run.prompt), facts(run), notes(run.notes)),
        element(
            "main",
            viewer(run),
            turntables(run),
            contacts(run),
            measures(run),
            curves(run),
            settings(run),
            files(run),
        ),
    )
    return write_page(run.folder / PAGE, run.prompt, body)


def facts(run: Run) -> Markup:
    """What was asked for and how long it took, as a list.

    Args:
        run: The run.

    Returns:
        HTML.
    """
    words = dict(run.wish)
    words["stages"] = ", ".join(part.name for part in run.parts)
    if run.seconds is not None:
        words["time"] = duration(run.seconds)
    pairs = [element("div", element("dt", key), element("dd", value)) for key, value in words.items() if value]
    return element("dl", pairs, class_="facts")


def viewer(run: Run) -> Markup | None:
    """The meshes of the run: one large view, and a button for every mesh.

    Args:
        run: The run.

    Returns:
        HTML, None where there is no mesh.
    """
    if not run.meshes:
        return None
    many = len({part.name for part, *_ in run.meshes}) > 1
    chooser, downloads = [], []
    for k, (part, i, file) in enumerate(run.meshes):
        name = f"Particle {i}, {part.name}" if many else f"Particle {i}"
        source = address(mesh_script(file, run.folder), run.folder)
        still = element("canvas", data_mesh=source, data_still=True, aria_hidden="true")
        pressed = "true" if k == 0 else "false"
        chooser.append(
            element("button", still, element("span", name), type="button", data_choose=source, aria_pressed=pressed)
        )
        same = [f for ending in ENDINGS if (f := file.with_suffix(ending)) in part.files]
        links = [link(f, run.folder, f.suffix[1:].upper()) for f in same]
        downloads.append(element("p", links, class_="downloads", data_of=source, hidden=k > 0))
    first = address(mesh_script(run.meshes[0][2], run.folder), run.folder)
    return section(
        "mesh",
        "Mesh",
        element(
            "div",
            element("div", canvas(first, run.prompt), element("p", role="status", class_="status"), class_="stage"),
            element(
                "div",
                shading(),
                element("div", chooser, class_="chooser", role="group", aria_label="Particle"),
                downloads,
                element("p", HINT, class_="hint"),
                class_="side",
            ),
            class_="viewer",
        ),
    )


def _particles(kinds: Iterable[dict[int, Path]]) -> list[int]:
    return sorted({i for kind in kinds for i in kind})


def turntables(run: Run) -> Markup | None:
    """The turntables of all stages side by side, a row per particle.

    Args:
        run: The run.

    Returns:
        HTML, None where there are none.
    """
    rows = []
    for i in _particles(part.turntables for part in run.parts):
        row = [
            figure(
                video(part.turntables[i], run.folder, f"Turntable of {run.prompt}, {part.name}, particle {i}"),
                f"{part.name}, particle {i}",
            )
            for part in run.parts
            if i in part.turntables
        ]
        rows.append(element("div", row, class_="row"))
    if not rows:
        return None
    play = element("button", "Play all", type="button", data_play=True, aria_pressed="false")
    return section("turntables", "Turntables", element("div", play, class_="bar"), rows)


def contacts(run: Run) -> Markup | None:
    """Contact sheets, the image of the 2D stage, and the validation strips.

    Args:
        run: The run.

    Returns:
        HTML, None where there are none.
    """
    figures, strips = [], []
    for part in run.parts:
        if part.image:
            alt = f"{run.prompt}: a row of particles per guidance, then one of ancestral samples"
            figures.append(figure(picture(part.image, run.folder, alt), f"{part.name}: {alt}"))
        for i, file in part.contacts.items():
            words = f"{part.name}, particle {i}"
            alt = f"{run.prompt}, {words}: eight views from the front on, colour above, normals below"
            figures.append(figure(picture(file, run.folder, alt), words))
        for i, pictures in part.strips.items():
            for file in pictures:
                step = int(file.stem.rpartition("step")[2])
                words = f"{part.name}, particle {i}, step {step}"
                alt = f"{run.prompt}, {words}: colour first, then normals, from a few views"
                strips.append(figure(picture(file, run.folder, alt), words))
    if not figures and not strips:
        return None
    later = None
    if strips:
        later = element(
            "details",
            element("summary", f"Validation while it trained ({len(strips)})"),
            element("div", strips, class_="row strips"),
        )
    return section("sheets", "Contact sheets", element("div", figures, class_="sheets"), later)


def files(run: Run) -> Markup | None:
    """Links to the files of every stage.

    Args:
        run: The run.

    Returns:
        HTML, None where there are none.
    """
    groups = []
    for part in run.parts:
        items = [
            element("li", link(file, run.folder), element("span", size(file.stat().st_size))) for file in part.files
        ]
        groups.append(element("div", element("h3", part.name), element("ul", items, class_="files")))
    return section("files", "Files", element("div", groups, class_="columns")) if groups else None
