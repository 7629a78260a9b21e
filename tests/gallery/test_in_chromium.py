"""The pages in a real headless Chromium, opened from the disk as a double click does."""

import json

import browser as chromium
import pytest
import torch
import trimesh
from small_folders import write_dream, write_stage

from gallery import command
from scene.export import About, Placement, write_glb
from scene.mesh_files import read_mesh
from scene.texture import bake, unwrap

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium; on Debian: apt-get install chromium")
# Texture filters mix neighbours a little.
RED, GREEN, BLUE, WHITE = (pytest.approx(c, abs=6) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)))
HOSTILE = "<script>window.struck = 1</script><img src=x onerror='window.struck = 1'>"
LARGE = "document.querySelector('canvas.view')"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs of dream, a run of a stage, and all their pages."""
    folder = tmp_path_factory.mktemp("a folder & <b>") / "runs"
    write_dream(folder / "one", particles=2)
    write_dream(folder / "two", prompt=HOSTILE, seed=1)
    write_stage(folder / "three", "Nerf")
    command.main([str(folder)])
    return folder


@pytest.fixture
def see(browser):
    """Opens a page and waits until its meshes in sight are drawn; it is closed in the end."""
    tabs = []

    def opened(page, drawn=1, **view):
        tab = browser.open(page, **view)
        tabs.append(tab)
        tab.wait(f"document.querySelectorAll('canvas[data-drawn]').length >= {drawn}")
        return tab

    yield opened
    for tab in tabs:
        tab.close()


def pixels(tab, query="canvas.view", which=0):
    """Fraction of a canvas that is covered, and its middle pixel, RGB."""
    covered, middle = tab.value(
        f"""(async () => {{
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const canvas = document.querySelectorAll({json.dumps(query)})[{which}];
          const {{ data }} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let covered = 0;
          for (let i = 3; i < data.length; i += 4) covered += data[i] > 127;
          const middle = 4 * (Math.floor(canvas.height / 2) * canvas.width + Math.floor(canvas.width / 2));
          return [covered / (data.length / 4), [...data.slice(middle, middle + 3)]];
        }})()"""
    )
    return covered, tuple(middle)


def focus(tab):
    tab.value(f"{LARGE}.focus()")


def test_the_canvas_shows_the_object_from_its_front_and_arrow_keys_turn_it(runs, see):
    tab = see(runs / "one" / "index.html", drawn=3)
    covered, middle = pixels(tab)
    assert 0.1 < covered < 0.8 and middle == RED, "the front is red, and colours are shown as they are"
    focus(tab)
    tab.press("ArrowRight", 7)
    assert pixels(tab)[1] == BLUE, "the camera goes to the right, where +x is, the left side of the object"
    tab.press("ArrowRight", 9)
    assert pixels(tab)[1] == GREEN, "the back"
    tab.press("ArrowUp", 6)
    assert pixels(tab)[1] == WHITE, "the top"


@pytest.mark.parametrize("up", ["y", "z"])
def test_a_given_mesh_is_seen_from_its_front_wherever_its_file_has_it(tmp_path, see, up):
    """What the texture stage and `vsd export` write of a mesh of a file: far from the origin, large, and turned."""
    box = trimesh.creation.box((40.0, 40.0, 40.0))
    box.apply_translation([300, 20, -70])
    box.export(tmp_path / "box.stl")
    given = read_mesh(tmp_path / "box.stl", 0.75, up)

    def sides(points):  # of the world: the front, +x, red; the left side, +y, blue; the top, +z, white; else green
        palette = torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]])
        side = points.abs().argmax(-1)
        return palette[torch.where(points.gather(-1, side[:, None])[:, 0] > 0, side, 3)]

    atlas = unwrap(given.mesh.vertices, given.mesh.faces, 128)
    run = write_dream(tmp_path / "run")
    files = given.mesh.vertices, atlas, bake(given.mesh.vertices, atlas, sides)
    placement = Placement(given.to_file.numpy(), given.up)
    glb = write_glb(run / "texture" / "mesh-particle0.glb", *files, placement, About("box", double_sided=True))
    assert trimesh.load(glb, force="mesh").centroid.max() > 200
    command.main([str(run)])
    tab = see(run / "index.html")
    covered, middle = pixels(tab)
    assert 0.1 < covered < 0.8 and middle == RED
    focus(tab)
    tab.press("ArrowRight", 7)
    assert pixels(tab)[1] == BLUE
    tab.press("ArrowUp", 6)
    assert pixels(tab)[1] == WHITE


def test_plus_zooms_and_0_goes_back(runs, see):
    tab = see(runs / "one" / "index.html")
    start = pixels(tab)
    focus(tab)
    tab.press("+", 3)
    assert pixels(tab)[0] > 1.3 * start[0]
    picture = tab.value(f"{LARGE}.toDataURL()")
    tab.press("0")
    assert pixels(tab)[0] == start[0] and tab.value(f"{LARGE}.toDataURL()") != picture


def test_a_drag_turns_the_object(runs, see):
    tab = see(runs / "one" / "index.html")
    box = tab.value(f"(({{x, y, width, height}}) => [x, y, width, height])({LARGE}.getBoundingClientRect())")
    middle = [box[0] + box[2] / 2, box[1] + box[3] / 2]
    start = tab.value(f"{LARGE}.toDataURL()")
    tab.drag(middle, [middle[0] - 120, middle[1]])
    covered, colour = pixels(tab)
    assert tab.value(f"{LARGE}.toDataURL()") != start and 0.1 < covered < 0.8 and colour == BLUE
    assert tab.value(f"document.activeElement === {LARGE}"), "from now on the wheel zooms"


def test_the_chooser_shows_another_particle_and_its_files(runs, see):
    tab = see(runs / "one" / "index.html", drawn=3)
    before = pixels(tab)[0]
    tab.click("[data-choose$='particle1.js']")
    tab.wait("document.querySelector('[data-choose$=\"particle1.js\"]').ariaPressed === 'true'")
    assert pixels(tab)[0] != pytest.approx(before, rel=0.02), "the second box is higher"
    shown = tab.value("[...document.querySelectorAll('[data-of]')].filter((p) => !p.hidden).map((p) => p.innerText)")
    assert len(shown) == 1 and "GLB" in shown[0]
    assert tab.value("document.querySelector('[data-of]:not([hidden]) a').href").endswith("mesh-particle1.glb")


def test_the_shadings_draw_the_same_object_differently(runs, see):
    tab = see(runs / "one" / "index.html")
    shots = {}
    for name in ("light", "surface", "normals", "colours"):
        tab.click(f"[data-shade={name}]")
        shots[name] = pixels(tab)
    assert all(covered == pytest.approx(shots["colours"][0], abs=0.01) for covered, _ in shots.values())
    assert shots["colours"][1] == RED
    assert len({middle for _, middle in shots.values()}) == 4
    red, green, blue = shots["surface"][1]
    assert max(red, green, blue) - min(red, green, blue) < 30, "the surface is grey"


def test_tab_reaches_the_view_the_shadings_and_every_particle(runs, see):
    tab = see(runs / "one" / "index.html", drawn=3)
    reached = []
    for _ in range(9):
        tab.press("Tab")
        reached.append(tab.value("document.activeElement.tagName + (document.activeElement.dataset.choose || '')"))
    assert reached[0] == "CANVAS" and reached.count("BUTTON") == 5
    assert [name for name in reached if name.startswith("BUTTONindex")] == [
        f"BUTTONindex_files/texture-mesh-particle{i}.js" for i in range(2)
    ]


def test_the_turntables_play_together_and_alone(runs, see):
    tab = see(runs / "one" / "index.html", before="HTMLMediaElement.prototype.play = async function () { this.on = 1 }")
    on = "[...document.querySelectorAll('video')].map((video) => video.on || 0)"
    tab.value("document.querySelectorAll('video')[2].focus()")
    tab.press(" ")
    assert tab.value(on) == [0, 0, 1, 0, 0, 0]
    tab.click("[data-play]")
    assert tab.value(on) == [1] * 6 and tab.value("document.querySelector('[data-play]').innerText") == "Pause all"


def test_a_hostile_prompt_is_text(runs, see):
    tab = see(runs / "two" / "index.html")
    assert tab.value("document.querySelector('h1').textContent") == HOSTILE
    assert tab.value("document.title") == HOSTILE
    tab = see(runs / "index.html", drawn=3)
    assert HOSTILE in tab.value("document.body.innerText")
    assert tab.value("window.struck === undefined")


@pytest.mark.parametrize(("name", "dark"), [("index.html", False), ("one/index.html", True), ("two/index.html", False)])
def test_no_request_leaves_the_page_and_nobody_complains(runs, see, name, dark):
    tab = see(runs / name, dark=dark)
    tab.value("document.querySelectorAll('details').forEach((part) => part.open = true)")
    tab.value("new Promise((done) => { scrollTo(0, document.body.scrollHeight); setTimeout(done, 300) })")
    asked = tab.requests()
    assert len(asked) > 4 and all(url.startswith(("file://", "data:", "blob:")) for url in asked), asked
    assert tab.complaints() == []
    light = "rgb(246, 245, 242)"
    assert (tab.value("getComputedStyle(document.body).backgroundColor") == light) != dark


@pytest.mark.parametrize("name", ["index.html", "one/index.html", "two/index.html", "three/index.html"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(runs, see, name):
    tab = see(runs / name, drawn=0 if "three" in name else 1, width=360, height=740, touch=True)
    tab.value("document.querySelectorAll('details').forEach((part) => part.open = true)")
    assert tab.value("document.documentElement.scrollWidth") <= 360
    small = tab.value(
        "[...document.querySelectorAll('button')].filter((b) => b.getBoundingClientRect().height < 36).length"
    )
    assert small == 0, "a finger hits every button"


def test_the_runs_of_a_comparison_turn_together_until_told_otherwise(runs, see):
    tab = see(runs / "index.html", drawn=3)
    focus(tab)
    tab.press("ArrowRight", 7)
    assert [pixels(tab, which=i)[1] for i in range(3)] == [BLUE] * 3
    tab.click("[data-together]")
    tab.press("ArrowLeft", 7)
    assert [pixels(tab, which=i)[1] for i in range(3)] == [RED, BLUE, BLUE]


def test_a_browser_without_webgl_says_so(runs, browser):
    before = """const get = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
      return kind.startsWith("webgl") ? null : get.call(this, kind, ...rest);
    };"""
    tab = browser.open(runs / "one" / "index.html", before=before)
    tab.wait("document.querySelector('.status').textContent.includes('WebGL is off')")
    assert tab.value("document.querySelectorAll('video').length") == 6, "the rest of the page is there"
    tab.close()


def test_a_missing_mesh_is_named_and_the_others_are_shown(tmp_path, browser):
    write_dream(tmp_path / "run", particles=2)
    command.main([str(tmp_path / "run")])
    (tmp_path / "run" / "index_files" / "texture-mesh-particle0.js").unlink()
    tab = browser.open(tmp_path / "run" / "index.html")
    tab.wait("document.querySelector('.status').textContent.includes('texture-mesh-particle0.js is missing')")
    tab.wait("document.querySelectorAll('canvas[data-drawn]').length === 1")
    tab.click("[data-choose$='particle1.js']")
    tab.wait(f"{LARGE}.dataset.drawn === ''")
    assert 0.1 < pixels(tab)[0] < 0.8
    tab.close()
