"""The table of configurations: what it writes where, and that a row is measured on a real run."""

import json

import pytest

from evaluation import presets
from evaluation.measures import Judges
from toybox.judges.parts import PartsJudge
from toybox.judges.parts_network import PartsNetwork
from toybox.judges.views import ViewClassifier


def test_a_row_is_measured_and_kept_and_the_file_gets_the_table(tmp_path, monkeypatch, capsys):
    """The 2D stage for two steps; its judges have random weights, so only time and memory mean something."""
    monkeypatch.setattr(
        presets, "load_judges", lambda _: Judges(PartsJudge(PartsNetwork().eval()), ViewClassifier().eval())
    )
    monkeypatch.setattr(presets, "CONFIGS", ("toybox/image",))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{presets.BEGIN}\nold\n{presets.END}\nafter\n")
    short = ["--trainer.max_steps=2", "--model.particles=4"]
    command = ["--prompt", "a red car", "--out", str(tmp_path / "runs"), "--write", str(page), *short]
    presets.main(command)
    (kept,) = (tmp_path / "runs").glob("*/toybox/image/row.json")
    row = json.loads(kept.read_text())
    assert row["config"] == "configs/toybox/image.yaml" and 0.2 < row["gib"] < 8 and 0 < row["minutes"] < 5
    table = capsys.readouterr().out
    assert f"| `{row['config']}` | {row['minutes']:.1f} | {row['gib']:.1f} |" in table
    assert page.read_text() == f"before\n{presets.BEGIN}\n{table}{presets.END}\nafter\n"
    monkeypatch.setattr(presets, "measured_process", lambda _: pytest.fail("it was run before"))
    presets.main(command)
    assert page.read_text().count(presets.BEGIN) == 1


def test_other_prompts_seeds_options_files_and_priors_are_other_runs(tmp_path, monkeypatch):
    places = [
        presets.folder_of(tmp_path, prompt, seed, overrides)
        for prompt in ("a red car", "a yellow duck")
        for seed in (0, 1)
        for overrides in ([], ["--trainer.max_steps=2"])
    ]
    monkeypatch.setattr(presets, "CONFIGS", presets.CONFIGS[1:])  # as if a file had another text
    places.append(presets.folder_of(tmp_path, "a red car", 0, []))
    monkeypatch.setattr(presets, "fingerprint", lambda pipeline: "another")
    places.append(presets.folder_of(tmp_path, "a red car", 0, []))
    assert len(set(places)) == len(places) and all(place.parent == tmp_path for place in places)


@pytest.mark.parametrize(
    ("more", "word"),
    [(["--prompt", "a green idea"], "idea"), (["--trainer.max_steps=x"], "ended with code 2")],
)
def test_what_fails_is_one_line(tmp_path, capfd, more, word):
    with pytest.raises(SystemExit) as ended:
        presets.main(["--out", str(tmp_path / "runs"), *more])
    assert ended.value.code == 2
    assert word in capfd.readouterr().err.splitlines()[-1]


def test_a_file_without_markers_is_refused_and_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(presets.InputError, match="lacks"):
        presets.write_between(page, "table")
    assert page.read_text() == "nothing here\n"
    with pytest.raises(presets.InputError, match="markers"):
        presets.write_between(tmp_path / "none.md", "table")
