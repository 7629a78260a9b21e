import json
import math
import sys

import pytest

from evaluation.view_glb import main, page

BROWSER = """#!{python}
import sys
from urllib.request import ProxyHandler, Request, build_opener
fetch, address = build_opener(ProxyHandler({{}})).open, sys.argv[-1]
parts = [fetch(address + name).read() for name in ("1.glb", "build/three.module.js", "")]
fetch(Request(address + "{kind}", data=b" ".join(parts)[:17]))
"""


@pytest.fixture
def three(tmp_path):
    folder = tmp_path / "three"
    (folder / "build").mkdir(parents=True)
    (folder / "build" / "three.module.js").write_text("three.js")
    return folder


@pytest.fixture
def files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.glb").write_text(name)
    return [str(tmp_path / "one.glb"), str(tmp_path / "two.glb")]


def browser(tmp_path, kind: str) -> str:
    """A program that takes what the page needs and answers with it, instead of Chromium."""
    fake = tmp_path / "browser"
    fake.write_text(BROWSER.format(python=sys.executable, kind=kind))
    fake.chmod(0o755)
    return str(fake)


def test_the_first_camera_sees_the_front_and_the_third_the_left_side():
    """In glTF's axes the front is at +z, the left side at +x, up is y."""
    text = page(2, 64).decode()
    settings = json.loads(text[text.index("} = {") + 4 : text.index(";\nconst answer")])
    assert settings["files"] == ["0.glb", "1.glb"]
    out, up = 2.5 * math.cos(math.radians(15)), 2.5 * math.sin(math.radians(15))
    assert settings["cameras"][0] == pytest.approx([0, up, out], abs=1e-6)
    assert settings["cameras"][2] == pytest.approx([out, up, 0], abs=1e-6)


def test_the_browser_gets_page_files_and_library_and_its_picture_is_written(tmp_path, files, three, capsys):
    out = tmp_path / "pictures" / "view.png"
    main([*files, "--three", str(three), "--browser", browser(tmp_path, "picture"), "--out", str(out)])
    assert out.read_bytes() == b"two three.js <!do"
    assert capsys.readouterr().out == f"{out}\n"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("three", "'npm install three' makes node_modules/three"),
        ("browser", "--browser none: no such program"),
        ("file", "three.glb: no such file"),
        ("page", "no picture; two three.js <!do"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path, files, three, capsys, wrong, message):
    program = "none" if wrong == "browser" else browser(tmp_path, "error")
    arguments = ["--three", str(tmp_path if wrong == "three" else three), "--browser", program]
    with pytest.raises(SystemExit, match="2"):
        main([*files, *(["three.glb"] if wrong == "file" else []), *arguments])
    error = capsys.readouterr().err
    assert error.startswith("view_glb: ") and message in error and error.count("\n") == 1
