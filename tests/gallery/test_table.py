import json
import sys

import pytest
import torch
from small_folders import write_dream, write_stage

from gallery import command, table


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dream(tmp_path / "runs" / "a" / "one", prompt="a red car")
    write_stage(tmp_path / "runs" / "b" / "two", "Nerf", prompt="a duck")
    for folder, step in (("a/one/nerf", 900), ("a/one/geometry", 900), ("a/one/texture", 900), ("b/two", 70_000)):
        path = tmp_path / "runs" / folder / "checkpoints" / "last.ckpt"
        torch.save({"epoch": 0, "global_step": step - (step == 70_000), "state_dict": {}, "loops": {"x": 5}}, path)
    record = tmp_path / "runs" / "b" / "two" / "config.yaml"
    record.write_text(record.read_text().replace("900", "70000"))
    (tmp_path / "runs" / "a" / "one" / "texture" / "finished").unlink()
    (tmp_path / "runs" / "a" / "one" / "geometry" / "checkpoints" / "last.ckpt").write_bytes(b"cut")
    return tmp_path / "runs"


def test_every_stage_has_a_row(runs, capsys):
    table.main(["--json"])
    rows = {row["folder"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [f"runs/a/one/{stage}" for stage in ("nerf", "geometry", "texture")] + ["runs/b/two"]
    found = {name: (row["steps"], row["of"], row["state"]) for name, row in rows.items()}
    assert found == {
        "runs/a/one/nerf": (900, 900, "finished"),
        "runs/a/one/geometry": (None, 900, "no checkpoint"),
        "runs/a/one/texture": (900, 900, "resumable"),
        "runs/b/two": (69_999, 70_000, "resumable"),
    }
    assert rows["runs/a/one/nerf"]["preset"] == "toybox" and rows["runs/b/two"]["preset"] is None
    assert rows["runs/a/one/nerf"]["seconds"] == 200 and rows["runs/b/two"]["phi_loss"] == 0.25


def test_the_table_is_for_people(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vsd", "runs", "runs/a"])
    command.vsd()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["prompt", "stage", "preset", "steps"]
    assert rows[0].split() == [
        "a",
        "red",
        "car",
        "nerf",
        "toybox",
        "900/900",
        "200",
        "0.25",
        "finished",
        "runs/a/one/nerf",
    ]
    assert len({row.index("toybox") for row in rows}) == 1


def test_a_folder_without_runs_is_one_line(runs, capsys):
    with pytest.raises(SystemExit) as ended:
        table.main(["nowhere"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "vsd runs: nowhere: no such folder; name a run folder, or a folder of runs\n"
