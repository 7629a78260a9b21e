import base64
import json
import re
import shutil
from pathlib import Path

import pytest
from pages import Page
from small_folders import write_dream, write_stage

from common.errors import InputError
from gallery.page import write_run_page
from gallery.runs import read_run

HOSTILE = "<script>alert(1)</script> \"quoted' & </title></script><img src=x onerror=alert(2)>"


def page_of(folder):
    return Page(write_run_page(read_run(folder)))


def test_a_run_shows_meshes_videos_sheets_curves_settings_and_files(run):
    page = page_of(run)
    assert page.path == run / "index.html"
    meshes = [canvas["data-mesh"] for canvas in page.all("canvas")]
    first, second = (f"index_files/texture-mesh-particle{i}.js" for i in range(2))
    assert meshes == [first, first, second], "the large view, then a button for every particle"
    assert [button.get("data-choose") for button in page.all("button") if "data-choose" in button] == [first, second]
    videos = [video["src"] for video in page.all("video")]
    stages = ("nerf", "geometry", "texture")
    assert videos == [f"{stage}/turntable-particle{i}.mp4" for i in range(2) for stage in stages]
    assert len(page.all("img")) == 2 * 2 * 3, "a contact sheet and a validation strip each"
    assert len(page.all("svg")) == 3 * 3
    assert not page.all("details")[1:-1], "phi's health is not folded"
    headings = "Mesh Turntables Contact sheets Curves Settings Files"
    assert all(heading in page.text for heading in headings.split())
    for words in ("5 min 40 s", "phi's loss (vsd)", "model.lr", "mesh-particle0.obj", "toybox"):
        assert words in page.text


def test_everything_that_the_page_names_is_there_and_relative(run):
    page = page_of(run)
    assert all(file.is_file() for file in page.linked())
    assert {run / "texture" / "mesh-particle1.glb", run / "nerf" / "checkpoints" / "last.ckpt"} <= page.linked()
    before = page.path.read_bytes()
    moved = run.parent / "moved & <renamed>"
    run.rename(moved)
    assert all(file.is_file() for file in Page(moved / "index.html").linked())
    assert page_of(moved).path.read_bytes() == before, "a page does not know where it lies"


def test_no_page_tells_where_on_the_machine_it_lies(run, tmp_path):
    page = page_of(run)
    for file in (page.path, *(path for path in (run / "index_files").rglob("*") if path.is_file())):
        text = file.read_bytes()
        assert str(tmp_path).encode() not in text and str(Path.home() / "").encode() not in text, file


def test_a_mesh_travels_as_a_script_with_its_bytes(run):
    page_of(run)
    script = (run / "index_files" / "texture-mesh-particle1.js").read_text()
    (coded,) = re.fullmatch(r'document\.currentScript\.glb = "([A-Za-z0-9+/=]+)";\n', script).groups()
    assert base64.b64decode(coded) == (run / "texture" / "mesh-particle1.glb").read_bytes()


def test_the_licence_travels_with_three(run):
    page_of(run)
    script = (run / "index_files" / "three.min.js").read_text()
    assert "The MIT License" in script[:100] and "three.js authors" in script[:100]
    assert len(script) < 1e6


def test_a_prompt_is_text_wherever_it_stands(tmp_path):
    folder = write_dream(tmp_path / "run", prompt=HOSTILE)
    (folder / "texture" / 'mesh-<b>"x.obj').write_text("")
    (folder / "score.json").write_text(json.dumps({"<i>kid": "<b>1"}))
    page, plain = page_of(folder), page_of(write_dream(tmp_path / "plain"))
    kinds = [tag for tag, _ in plain.elements]
    assert {tag for tag, _ in page.elements} == set(kinds)
    assert len(page.all("script")) == len(plain.all("script")) == 2
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert page.text.count(HOSTILE) >= 2 and "<i>kid" in page.text and "<b>1" in page.text
    assert all(HOSTILE in image["alt"] for image in page.all("img"))
    assert any(link.get("download") == 'mesh-<b>"x.obj' for link in page.all("a"))


def test_pictures_videos_and_meshes_say_what_they_show(run):
    page = page_of(run)
    assert all(image["alt"] and image["loading"] == "lazy" for image in page.all("img"))
    assert all("a red mushroom" in video["aria-label"] for video in page.all("video"))
    large, *stills = page.all("canvas")
    assert large["tabindex"] == "0" and "arrow keys" in large["aria-label"]
    assert all(still["aria-hidden"] == "true" for still in stills)
    assert page.all("html") == [{"lang": "en"}] and "a red mushroom" in page.text


def test_a_run_without_meshes_metrics_and_finished_stages_has_a_page(run):
    for stage in ("geometry", "texture"):
        shutil.rmtree(run / stage)
    (run / "nerf" / "metrics.csv").write_bytes(b"\xff\x00")
    page = page_of(run)
    assert not page.all("canvas") and not page.all("svg") and len(page.all("video")) == 2
    for words in ("geometry has not run yet.", "texture has not run yet.", "metrics.csv cannot be read"):
        assert words in page.text


def test_the_stages_of_one_kind_have_pages_of_their_own(tmp_path):
    write_stage(tmp_path / "image", "Image", particles=0, prompt="a red car")
    (tmp_path / "image" / "image.png").write_bytes(b"")
    page = page_of(tmp_path / "image")
    assert [image["src"] for image in page.all("img")] == ["image.png"]
    assert not page.all("video") and "ancestral samples" in page.text


def test_measures_are_shown_with_their_sheet(run):
    (run / "texture" / "score.json").write_text(json.dumps({"part_recall": 0.9, "janus": 0.0}))
    (run / "texture" / "score.png").write_bytes(b"")
    page = page_of(run)
    assert "part recall" in page.text and "0.900" in page.text
    assert "texture/score.png" in [image["src"] for image in page.all("img")]


def test_a_page_of_another_program_is_not_overwritten(run):
    page = write_run_page(read_run(run))
    write_run_page(read_run(run))
    page.write_text("<title>mine</title>")
    with pytest.raises(InputError, match="another program wrote it"):
        write_run_page(read_run(run))
    assert page.read_text() == "<title>mine</title>"
