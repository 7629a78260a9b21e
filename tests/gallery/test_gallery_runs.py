import json
import shutil

import pytest
import yaml
from small_folders import write_dream, write_stage

from common.errors import InputError
from gallery.runs import find_runs, flat, read_run

CURVES = ["train/guidance", "train/vsd_score_loss", "train/vsd_phi_ratio"]


def test_a_run_of_dream_is_read_stage_by_stage(run):
    found = read_run(run)
    assert found.prompt == "a red mushroom" and found.notes == []
    assert found.wish == {"preset": "toybox", "particles": "2", "seed": "0"}
    assert [part.name for part in found.parts] == ["nerf", "geometry", "texture"]
    assert found.seconds == pytest.approx(340.5)
    for part in found.parts:
        assert list(part.turntables) == list(part.contacts) == list(part.strips) == [0, 1]
        assert [curve.name for curve in part.curves] == CURVES
    assert [(part.name, i) for part, i, _ in found.meshes] == [("texture", 0), ("texture", 1)]
    files = [file.name for file in found.parts[-1].files]
    assert files[:2] == ["mesh-particle0.glb", "mesh-particle1.glb"] and files[-1] == "last.ckpt"


def test_options_are_told_as_one_types_them_and_without_paths_of_the_machine(run):
    overrides = ["--config", "/home/me/log.yaml", "--prompt", "a 'b'"]
    (run / "dream.yaml").write_text(yaml.safe_dump({"overrides": overrides, "preset": "toybox", "mesh": "/home/m.glb"}))
    assert list(read_run(run).wish.items()) == [
        ("preset", "toybox"), ("mesh", "m.glb"), ("options", """--config log.yaml --prompt 'a '"'"'b'"'"''"""),
    ]  # fmt: skip


def test_particles_are_in_the_order_of_their_numbers(tmp_path):
    write_stage(tmp_path / "run", particles=11)
    assert list(read_run(tmp_path / "run").parts[0].contacts) == list(range(11))


def test_a_single_stage_is_a_run_by_its_configuration(tmp_path):
    write_stage(tmp_path / "20250101-120000", "Nerf", prompt="a blue duck")
    found = read_run(tmp_path / "20250101-120000")
    assert found.prompt == "a blue duck" and found.wish == {"seed": "3"} and found.notes == []
    (part,) = found.parts
    assert part.name == "nerf" and not part.unfinished and part.seconds is None and found.seconds is None


def test_missing_and_unfinished_stages_are_told(run):
    shutil.rmtree(run / "texture")
    (run / "geometry" / "finished").unlink()
    found = read_run(run)
    assert [part.name for part in found.parts] == ["nerf", "geometry"]
    assert found.notes == [
        "texture has not run yet.",
        "geometry has not finished.",
        "dream --resume with this folder runs what is missing.",
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("dream.yaml", "prompt: {a", "one/dream.yaml is damaged."),
        ("nerf/config.yaml", "- a list", "nerf/config.yaml is damaged."),
        ("nerf/seconds", "soon", "nerf/seconds is damaged."),
        ("nerf/metrics.csv", "step,loss\n1,2\n3", "nerf: metrics.csv: 1 damaged line left out."),
        ("score.json", "{", "score.json is damaged."),
    ],
)
def test_a_damaged_file_is_told_and_the_rest_is_read(run, name, content, told):
    (run / name).write_text(content)
    found = read_run(run)
    assert told in found.notes
    assert len(found.parts) == 3 and len(found.meshes) == 2


def test_measures_are_those_of_the_run_or_of_its_last_stage(run):
    (run / "nerf" / "score.json").write_text(json.dumps({"kid": 0.5}))
    assert read_run(run).measures == {"kid": "0.500"}
    score = {"run": "runs/x", "part_recall": 0.98765, "janus": None, "coverage": 3}
    (run / "texture" / "score.json").write_text(json.dumps(score))
    assert read_run(run).measures == {"part_recall": "0.988", "coverage": "3"}


def test_settings_are_flat_and_say_their_classes():
    config = {
        "trainer": {
            "max_steps": 9,
            "logger": None,
            "callbacks": [{"class_path": "vsd.G", "init_args": {"scale": 7.5, "score": {"betas": [0.9, 0.99]}}}],
        }
    }
    assert flat(config) == {
        "trainer.max_steps": "9",
        "trainer.callbacks.0": "vsd.G",
        "trainer.callbacks.0.scale": "7.5",
        "trainer.callbacks.0.score.betas": "0.9, 0.99",
    }


def test_runs_are_found_at_any_depth_and_stages_of_dream_are_no_runs(tmp_path, run):
    write_stage(tmp_path / "runs" / "a-duck" / "two", "Nerf")
    assert find_runs([tmp_path / "runs"]) == [tmp_path / "runs" / "a-duck" / "two", run]
    assert find_runs([run, tmp_path / "runs"]) == [run, tmp_path / "runs" / "a-duck" / "two"]
    assert find_runs([run / "nerf"]) == [run / "nerf"], "a stage that is named is meant"


def test_a_folder_without_a_run_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no run in it"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_runs([write_dream(tmp_path / "run"), tmp_path / "nowhere"])
