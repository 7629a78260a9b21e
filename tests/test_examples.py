"""The examples run from their first to their last line, with few steps."""

import json
import re
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_one_step_generator_writes_its_picture(tmp_path):
    command = [sys.executable, EXAMPLES / "one_step_generator.py", "--steps", "2", "--batch", "2", "--out", "rows.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.size == (6 * 64, 3 * 64)


def test_the_notebook_runs_and_measures_diversity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "vsd_2d.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict = {}
    for cell in code:
        exec(
            compile(cell.replace("STEPS = 250", "STEPS = 2").replace("PARTICLES = 8", "PARTICLES = 2"), "cell", "exec"),
            names,
        )
    assert names["STEPS"] == 2 and set(names["diversity"]) == {"SDS", "VSD"}
    assert all(value > 0 for value in names["diversity"].values())
    assert names["vsd"].shape == (2, 3, 64, 64) and not torch.equal(names["vsd"], names["sds"])


def test_the_loop_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    page = (EXAMPLES.parent / "docs" / "own-loop.md").read_text()
    (program,) = re.findall(r'```python title="loop.py"\n(.*?)```', page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace("STEPS = 250", "STEPS = 2"), "loop.py", "exec"), {})
    assert "phi_calibration" in capsys.readouterr().out
    with Image.open("ducks.png") as picture:
        assert picture.size == (8 * 64, 64)
