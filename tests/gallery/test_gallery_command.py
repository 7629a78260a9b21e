import subprocess
import sys
from pathlib import Path

import pytest
from pages import Page
from small_folders import write_dream, write_stage

from gallery import command
from lightning_modules import cli
from lightning_modules import dream as stages

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A working directory with three runs below runs/."""
    monkeypatch.chdir(tmp_path)
    write_dream(tmp_path / "runs" / "a-red-car" / "one", prompt="a red car", particles=2)
    write_dream(tmp_path / "runs" / "a-red-car" / "two", prompt="a red car", seed=1)
    write_stage(tmp_path / "runs" / "a-duck" / "three", "Nerf", prompt="a <b>duck", lr=0.5)
    return tmp_path / "runs"


def test_one_run_has_one_page(runs, capsys):
    command.main(["runs/a-red-car/one"])
    assert capsys.readouterr().out == "runs/a-red-car/one/index.html\n"
    assert not (runs / "index.html").exists()


def test_many_runs_have_a_page_each_and_one_that_compares_them(runs, capsys):
    command.main(["runs"])
    *each, last = capsys.readouterr().out.splitlines()
    assert each == [f"runs/{name}/index.html" for name in ("a-duck/three", "a-red-car/one", "a-red-car/two")]
    assert last == "runs/index.html"
    page = Page(runs / "index.html")
    assert all(file.is_file() for file in page.linked())
    assert {runs / "a-duck" / "three" / "index.html", runs / "a-red-car" / "one" / "index.html"} <= page.linked()
    assert [canvas["data-mesh"] for canvas in page.all("canvas")] == [
        f"a-red-car/{run}/index_files/texture-mesh-particle{i}.js" for run, i in (("one", 0), ("one", 1), ("two", 0))
    ]
    assert [video["src"] for video in page.all("video")] == ["a-duck/three/turntable-particle0.mp4"]
    assert "3 runs, 4 particles" in page.text and "a <b>duck" in page.text
    assert len(page.all("article")) == 3


def test_only_settings_that_differ_are_compared_and_only_within_a_stage(runs):
    write_stage(runs / "a-duck" / "four", "Nerf", prompt="a <b>duck", lr=0.5)
    write_dream(runs / "a-duck" / "five", prompt="a <b>duck")
    command.main(["runs/a-duck/four", "runs/a-duck/three", "--out", "alike"])
    assert "What differs" not in Page(Path("alike/index.html")).text
    command.main(["runs/a-duck"])
    text = Page(runs / "a-duck" / "index.html").text
    assert "What differs (1)" in text and "nerf: model.lr0.010.50.5" in text


def test_the_comparison_lies_where_it_is_told_or_beside_what_is_named(runs, tmp_path, capsys):
    command.main(["runs/a-red-car/one", "runs/a-red-car/two"])
    assert capsys.readouterr().out.endswith("\nruns/a-red-car/index.html\n")
    command.main(["runs/a-red-car/one", "runs/a-duck/three", "--out", "new/page"])
    assert capsys.readouterr().out.endswith("\nnew/page/index.html\n")
    assert all(file.is_file() for file in Page(tmp_path / "new" / "page" / "index.html").linked())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: no run in it"),
        (["runs", "--out", "runs/a-duck/three"], "is the folder of a run"),
        (["runs/a-red-car/one", "runs/a-red-car/one/nerf"], "is the folder of a run"),
        (["runs", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["runs", "--out", "empty"], "empty/index.html: another program wrote it"),
    ],
)
def test_a_wrong_input_is_one_line(runs, tmp_path, capsys, arguments, named):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "index.html").write_text("mine")
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vsd gallery: ") and named in line


def test_vsd_hands_on_what_is_not_the_gallery(runs, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cli, "main", lambda: calls.append(sys.argv[1:]))
    for arguments in (["fit", "--config", "gallery"], ["--config", "a"], ["gallery", "runs/a-duck"]):
        monkeypatch.setattr(sys, "argv", ["vsd", *arguments])
        command.vsd()
    assert calls == [["fit", "--config", "gallery"], ["--config", "a"]]
    assert capsys.readouterr().out == "runs/a-duck/three/index.html\n"


def test_vsd_lists_its_commands(monkeypatch, capsys):
    assert set(command.TRAINING) == set(cli.Command.subcommands())
    monkeypatch.setattr(cli, "main", lambda: pytest.fail("nothing is loaded for that"))
    monkeypatch.setattr(sys, "argv", ["vsd", "--help"])
    command.vsd()
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in command.TRAINING | command.OTHERS)


@pytest.mark.parametrize(("arguments", "named"), [([], "a command is missing"), (["train"], "'train' is no command")])
def test_a_command_that_there_is_not_is_one_line_that_names_all(monkeypatch, capsys, arguments, named):
    monkeypatch.setattr(sys, "argv", ["vsd", *arguments])
    with pytest.raises(SystemExit) as end:
        command.vsd()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith(f"vsd: {named}; there are fit, ") and "gallery, export, runs" in line


def test_dream_ends_with_its_page(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dream", "--resume", "runs/a-red-car/one"])
    with pytest.raises(SystemExit) as end:
        command.dream()
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "runs/a-red-car/one/index.html"
    assert (runs / "a-red-car" / "one" / "index.html").is_file()


def test_a_dream_that_stops_has_no_page(runs, monkeypatch):
    (runs / "a-red-car" / "one" / "texture" / "finished").unlink()
    monkeypatch.setattr(stages, "run_stage", lambda *_: 130)
    monkeypatch.setattr(sys, "argv", ["dream", "--resume", "runs/a-red-car/one"])
    with pytest.raises(SystemExit) as end:
        command.dream()
    assert end.value.code == 130 and not (runs / "a-red-car" / "one" / "index.html").exists()


def test_the_gallery_answers_before_it_loads_what_trains():
    code = "import sys; import gallery.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_module_is_the_command(runs):
    command = [sys.executable, "-m", "gallery", str(runs / "a-duck")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).name == "index.html"


@pytest.mark.parametrize("program", ["vsd", "dream"])
def test_a_package_without_the_stages_says_what_to_install(program, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", [program, "fit"])
    with pytest.raises(SystemExit) as ended:
        getattr(command, program)()
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.count("\n") == 1 and "pip install 'prolific[all]'" in printed
