import csv
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from evaluation import (
    claims,
    claims_cameras,
    claims_particles,
    claims_phi,
    claims_preset,
    claims_steps,
    claims_switches,
    particles_3d,
)
from evaluation.claims_phi import correlation
from evaluation.claims_pictures import NAME
from evaluation.particles_3d import KINDS, VARIANTS, Setting3D, file_of, options_of
from evaluation.pictures import SIZE
from lightning_modules.wish import config_of


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def rows_shown(path):
    """Rows of pictures of one line each in a sheet."""
    with Image.open(path) as sheet:
        rows, rest = divmod(sheet.height, SIZE + NAME)
    assert rest == 0
    return rows


def test_the_rank_correlation_and_its_interval():
    x = list(np.linspace(0, 1, 40))
    assert correlation(x, [v**3 for v in x]) == pytest.approx((1, 1, 1))
    noise = np.random.default_rng(3).normal(size=40)
    value, low, high = correlation(x, list(noise))
    assert low < value < high and low < 0 < high


def test_the_report_on_phi_has_a_row_per_run(tmp_path, monkeypatch, capsys, blind_judges):
    monkeypatch.setattr(claims_phi, "STEPS", 2)
    monkeypatch.setattr(claims_phi, "PARTICLES", 3)
    assert len(claims_phi.settings()) >= 40
    claims.main(["--quick", "--only", "phi", "--out", str(tmp_path)])
    runs = claims_phi.settings(quick=True)
    rows = rows_of(tmp_path / "phi.csv")
    assert [float(row["lr"]) for row in rows] == [run.lr for run in runs] and all(
        float(r["phi_ratio"]) > 0 for r in rows
    )
    assert (tmp_path / "phi.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "phi.png").stat().st_size > 1000
    assert rows_shown(tmp_path / "phi-particles.png") == len(runs) + 2, "a row per run, and the samples of two prompts"


def test_the_report_on_switches_has_a_row_per_switch(tmp_path, monkeypatch, capsys, blind_judges):
    runs = [replace(run, particles=3, steps=2) for run in claims_switches.savings(1)]
    assert {run.switch for run in runs} == {"", "shared", "bfloat16", "small"} and len(runs) == 4
    assert len(claims_switches.rates()) == 8 and len({run.key for run in runs}) == 4
    monkeypatch.setattr(claims_switches, "savings", lambda seeds: runs)
    monkeypatch.setattr(claims_switches, "rates", lambda: [])
    claims.main(["--only", "switches", "--out", str(tmp_path)])
    report = (tmp_path / "switches.md").read_text()
    assert report in capsys.readouterr().out
    assert all(f"| 0.003 | {switch} | 1 | " in report for switch in ("none", "shared", "bfloat16", "small"))
    pictures = {row["switch"]: row["phi_ratio"] for row in rows_of(tmp_path / "switches.csv")}
    assert len(set(pictures.values())) == 4, "each switch changes something"
    assert rows_shown(tmp_path / "switches.png") == 4 + 1


@pytest.mark.parametrize("part", claims_preset.PRESETS)
def test_the_presets_own_settings_are_what_is_measured(part, tmp_path):
    setting = claims_preset.settings(part)[0]
    preset = OmegaConf.load(config_of(setting.preset, "nerf"))
    guidance = preset.trainer.callbacks[0].init_args
    assert (setting.scale, setting.steps) == (guidance.scale, preset.trainer.max_steps)
    assert KINDS[setting.kind] == (f"kind={guidance.kind}", f"score.phi_mix={guidance.score.phi_mix}")
    assert str(config_of(setting.preset, "nerf")) in options_of(setting, tmp_path)
    assert [run.seed for run in claims_preset.settings(part, seeds=2)] == 5 * [0] + 5 * [1]
    few = claims_preset.settings(part, seeds=2, prompts=("a red car", "a blue duck"))
    assert [run.prompt for run in few] == 2 * ["a red car", "a blue duck"]
    prompts = {run.prompt for run in claims_preset.settings(part)}
    assert not {"a yellow duck", "a white snowman", "a red house"} & prompts


def test_other_settings_methods_and_texts_of_a_preset_are_other_files(tmp_path, monkeypatch):
    base = Setting3D("a red car", "vsd", 3.0)
    assert base.key == "3d-a_red_car-vsd-3.0-1-0-900"
    others = [replace(base, variant="far"), replace(base, preset="toybox-best"), replace(base, seed=1)]
    assert len({run.key for run in [base, *others]}) == 4
    first = file_of(base, tmp_path)
    assert first.parent == tmp_path and first.name.startswith(base.key) and file_of(base, tmp_path) == first
    changed = tmp_path / "nerf.yaml"
    changed.write_bytes(config_of("toybox", "nerf").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(particles_3d, "config_of", lambda *_: changed)
        assert file_of(base, tmp_path) == first, "the place of the preset is no part of the name"
        changed.write_text(changed.read_text() + "# longer\n")
        assert file_of(base, tmp_path) != first
    monkeypatch.setitem(particles_3d.KINDS, "vsd", ("kind=vsd", "score.phi_mix=0.9"))
    assert file_of(base, tmp_path) != first


def test_the_presets_report_has_the_spread_over_seeds(tmp_path, monkeypatch, capsys, blind_judges, drawn_samples):
    tiny = [Setting3D("a red mushroom", "vsd-0.75", 3.0, 1, seed, 2) for seed in range(2)]
    monkeypatch.setattr(claims_preset, "settings", lambda *_: tiny)
    claims.main(["--quick", "--only", "preset", "--out", str(tmp_path)])
    rows, report = rows_of(tmp_path / "preset.csv"), (tmp_path / "preset.md").read_text()
    assert report in capsys.readouterr().out and (tmp_path / "preset-views.png").stat().st_size > 1000
    scores = [float(row["truth_score"]) for row in rows]
    assert "| a red mushroom | 2 | " in report
    assert f"{mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})" in report
    assert claims_preset.spread([1.0, None, 2.0]) == "1.50 (1.00 to 2.00)" and claims_preset.spread([None]) == ""
    assert claims_preset.spread([2.0, None]) == "2.00"


def test_the_report_on_particles_has_a_row_per_number_and_the_cost_of_each(tmp_path, monkeypatch, capsys, blind_judges):
    assert [run.particles for run in claims_particles.settings(seeds=1)] == [1, 2, 4, 8, 16, 32, 64]
    assert {run.particles for run in claims_particles.settings(quick=True)} == {1, 2, 4, 8}
    runs = [replace(run, steps=2) for run in claims_particles.settings(seeds=2, particles=(1, 3))]
    monkeypatch.setattr(claims_particles, "settings", lambda *_: runs)
    claims.main(["--only", "particles", "--out", str(tmp_path)])
    report = (tmp_path / "particles.md").read_text()
    assert rows_shown(tmp_path / "particles.png") == 3, "one particle, three, and the prior's samples"
    assert report in capsys.readouterr().out
    rows = rows_of(tmp_path / "particles.csv")
    assert [int(row["particles"]) for row in rows] == [1, 3, 1, 3]
    assert rows[0]["diversity_prior"] == "" and float(rows[1]["diversity_prior"]) > 0, "one picture has no diversity"
    seconds = sum(float(row["seconds"]) for row in rows if row["particles"] == "3") / 2
    (line,) = [line for line in report.splitlines() if line.startswith("| a yellow duck, front left view | 3 | 2 |")]
    assert float(line.split("|")[-2].split("±")[0]) == pytest.approx(seconds / 3, abs=1e-3)


def test_the_report_on_steps_has_both_methods_at_their_best_setting(tmp_path, monkeypatch, capsys, blind_judges):
    runs = claims_steps.settings()
    assert len(runs) == 3 * 3 * 2 * 2 and {run.steps for run in runs} == {100, 300, 900}
    assert {(run.kind, run.scale, run.decay) for run in runs} == {("vsd", 1.0, True), ("sds", 3.0, False)}
    assert {run.prompt for run in claims_steps.settings(quick=True)} == {"a yellow duck, front left view"}
    assert {run.seed for run in claims_steps.settings(prompts=("a red house",), seeds=2)} == {0, 1}
    runs = [replace(run, particles=2, steps=1 + (run.steps > 100)) for run in runs[:4] + runs[8:12]]
    monkeypatch.setattr(claims_steps, "settings", lambda *_: runs)
    claims.main(["--only", "steps", "--out", str(tmp_path)])
    report = (tmp_path / "steps.md").read_text()
    assert report in capsys.readouterr().out and len(rows_of(tmp_path / "steps.csv")) == 8
    assert rows_shown(tmp_path / "steps.png") == 8 + 4, "every run, and the samples of two prompts and scales"
    lines = [line for line in report.splitlines() if line.startswith("| a yellow duck, front left view | ")]
    assert [line.split("|")[2:4] for line in lines] == [
        [f" {kind} ", f" {steps} "] for kind in ("sds", "vsd, decay") for steps in (1, 2)
    ]


def test_the_report_on_cameras_has_a_row_per_variant(tmp_path, monkeypatch, capsys, blind_judges, drawn_samples):
    runs = claims_cameras.settings(quick=True)
    assert [run.variant for run in runs] == list(VARIANTS) and len({run.key for run in runs}) == len(VARIANTS)
    assert len(claims_cameras.settings()) == 3 * 2 * len(VARIANTS)
    assert all(set(VARIANTS[run.variant]) <= set(options_of(run, tmp_path)) for run in runs)
    few = [replace(run, steps=2) for run in runs if run.variant in ("", "far")]
    monkeypatch.setattr(claims_cameras, "settings", lambda *_: few)
    claims.main(["--only", "cameras", "--out", str(tmp_path)])
    report = (tmp_path / "cameras.md").read_text()
    assert report in capsys.readouterr().out and (tmp_path / "cameras-views.png").stat().st_size > 1000
    assert all(f"| a yellow duck | {name} | 1 |" in report for name in ("as the preset", "far"))
    one, other = rows_of(tmp_path / "cameras.csv")
    assert one["sharpness"] != other["sharpness"], "other cameras, another run"
