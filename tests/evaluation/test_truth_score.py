"""The score against truth: its ends, its insensitivity to nothing but the object, and the command."""

import pytest
import torch
import yaml

from evaluation import short_presets, truth_score
from evaluation import truth_distance as td

WHERE = (2.3, 40.0, 32)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VSD_CACHE", str(tmp_path))
    td.true_looks.cache_clear()


def test_a_true_instance_is_at_distance_zero_from_itself_and_found_among_others():
    truth = td.true_looks("car", "red", 3, 0, *WHERE)
    distance, which = td.nearest(td.Look(truth.rgb[1], truth.mask[1]), truth)
    assert which == 1 and distance == 0


def test_distance_counts_pixels_of_either_object_alone():
    """A white sheet against a black square of 4 of 16 pixels: 1 where the square is, whatever the rest."""
    square = torch.ones(1, 8, 4, 4, 3)
    mask = torch.zeros(1, 8, 4, 4, dtype=torch.bool)
    square[:, :, :2, :2], mask[:, :, :2, :2] = 0.0, True
    nothing = td.Look(torch.ones(8, 4, 4, 3), torch.zeros(8, 4, 4, dtype=torch.bool))
    assert td.nearest(nothing, td.Look(square, mask))[0] == pytest.approx(1.0)
    assert td.nearest(td.Look(square[0] + 0.25, mask[0]), td.Look(square, mask))[0] == pytest.approx(0.25)


def test_the_score_is_one_for_truth_zero_for_wrong_objects_and_falls_for_a_turned_object():
    truth = td.true_looks("car", "red", 2, 0, *WHERE)
    ends = td.Scale(real=0.05, wrong=0.45)
    assert ends.score(0.05) == pytest.approx(1) and ends.score(0.45) == pytest.approx(0)
    turned = td.Look(truth.rgb[0].roll(4, 0), truth.mask[0].roll(4, 0))  # the back where the front should be
    sideways = td.Look(truth.rgb[0].roll(2, 0), truth.mask[0].roll(2, 0))
    right = td.nearest(td.Look(truth.rgb[0], truth.mask[0]), truth)[0]
    assert right < td.nearest(turned, truth)[0] < td.nearest(sideways, truth)[0]


def test_looks_are_the_same_from_the_cache(tmp_path):
    first = td.true_looks("duck", "blue", 1, 0, *WHERE)
    assert list(tmp_path.rglob("*.safetensors"))
    td.true_looks.cache_clear()
    again = td.true_looks("duck", "blue", 1, 0, *WHERE)
    assert torch.equal(first.rgb, again.rgb) and torch.equal(first.mask, again.mask)


def test_the_command_trains_scores_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(truth_score, "INSTANCES", 2)
    monkeypatch.setattr(td, "INSTANCES", 2)
    monkeypatch.setattr(td, "OBJECTS", {name: None for name in ("mushroom", "table")})
    td.scale.cache_clear()
    small = ["--trainer.max_steps=2", "--data.eval_resolution=16", "--model.field.samples=16"]
    args = ["--prompt", "a red mushroom", "--seeds", "1", "--guidance", "sds", "--out", str(tmp_path / "out"), *small]
    truth_score.main(args)
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("a red mushroom") for row in rows)
    score = float(rows[-1].removeprefix("min score "))
    assert -0.5 < score < 0.6, "two steps do not make a mushroom"
    assert (tmp_path / "out" / "truth_score.png").exists()
    td.scale.cache_clear()


def test_minutes_squeeze_the_whole_preset(tmp_path, monkeypatch):
    """Fake runs of a tenth of a second a step and two seconds before: one minute is 580 steps of a preset of 900."""
    clock, ran = [0.0], []

    def fit(preset, prompt, seed, steps, folder):
        clock[0] += 2 + steps / 10
        ran.append(steps)

    monkeypatch.setattr(short_presets.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(short_presets, "fit", fit)
    assert short_presets.steps_in(short_presets.Preset(), "a red car", tmp_path, 1.0) == 580 and len(ran) == 2

    config = tmp_path / "nerf.yaml"
    preset = {
        "trainer": {
            "max_steps": 900,
            "callbacks": [{"init_args": {"timesteps": {"steps": 900}, "score": {"warm_start": 450}}}],
        },
        "data": {"init_args": {"milestones": [{"step": 0, "batch_size": 4}, {"step": 400, "batch_size": 8}]}},
    }
    config.write_text(yaml.safe_dump(preset))
    options = dict(option.removeprefix("--").split("=", 1) for option in short_presets.squeezed(str(config), 90))
    guidance = "trainer.callbacks.init_args."
    assert options["trainer.max_steps"] == options[f"{guidance}timesteps.steps"] == "90"
    assert options[f"{guidance}score.warm_start"] == "45"
    assert [m["step"] for m in yaml.safe_load(options["data.milestones"])] == [0, 40]


def test_an_unknown_prompt_is_answered_before_any_training(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        truth_score.main(["--prompt", "a red spoon", "--out", str(tmp_path)])
    assert end.value.code == 2 and "spoon" in capsys.readouterr().err
