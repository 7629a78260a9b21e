import csv
import re
from dataclasses import replace
from math import nan
from pathlib import Path
from statistics import mean

import pytest
import torch

from common.errors import InputError
from evaluation import claims, claims_2d, claims_3d
from evaluation.claims_report import interval, paired, paired_at_best, sign_test, table
from evaluation.particles_2d import Setting, distil
from evaluation.particles_3d import Setting3D, options_of
from evaluation.pictures import SIZE
from vsd.embeddings import encode
from vsd.prior import DiffusionPrior
from vsd.score_distillation import Conditions, ScoreDistillation


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_the_sign_test_is_the_binomial_distribution():
    assert sign_test(5, 5) == sign_test(0, 5) == pytest.approx(2 / 32)
    assert sign_test(4, 5) == pytest.approx(2 * 6 / 32) and sign_test(3, 6) == 1.0 and sign_test(0, 0) == 1.0


def test_an_interval_is_a_mean_and_its_standard_error():
    assert interval([1.0, 2.0, 3.0]) == f"2.000 ± {1 / 3**0.5:.3f}" and interval([2.0]) == "2.000"


def test_a_row_without_a_scale_has_a_row_of_its_own_in_the_table():
    row = {"prompt": "a", "particles": 2, "kind": "prior", "scale": nan, "sharpness": 0.5}
    lines = table([row, row | {"kind": "sds", "scale": 3.0}, row | {"kind": "sds", "scale": 3.0, "sharpness": 0.7}])
    assert lines[2] == "| a | 2 | prior |  | 1 | 0.500 |" and lines[3] == "| a | 2 | sds | 3 | 2 | 0.600 ± 0.100 |"


def test_pairs_are_runs_that_differ_in_the_method_alone():
    row = {"prompt": "a", "particles": 2, "seed": 0, "kind": "vsd", "scale": 1.0, "part_recall": 0.9}
    rows = [row, row | {"kind": "sds", "part_recall": 0.5}, row | {"seed": 1}]  # the last has no partner
    rows += [row | {"scale": 3.0, "part_recall": 0.1}, row | {"scale": 3.0, "kind": "sds"}]
    assert paired(rows, "part_recall", True) == [
        "| part recall | 1 | 1 of 1 | 1 |",
        "| part recall | 3 | 0 of 1 | 1 |",
        "| part recall | all | 1 of 2 | 1 |",
    ]
    assert paired(rows, "part_recall", True, ", decay") == []


def test_each_method_is_compared_at_its_own_best_scale():
    row = {"prompt": "a", "particles": 2, "seed": 0, "part_recall": 0.5}
    rows = [
        row | {"kind": "vsd", "scale": 1.0, "kid_prior": 2.0},
        row | {"kind": "vsd", "scale": 3.0, "kid_prior": 1.0},
        row | {"kind": "vsd, decay", "scale": 3.0, "kid_prior": 4.0},
        row | {"kind": "sds", "scale": 1.0, "kid_prior": 0.5},
        row | {"kind": "sds", "scale": 3.0, "kid_prior": 9.0, "part_recall": 0.9},
    ]
    lines = paired_at_best(rows)
    assert "(vsd, scale 3 against sds, scale 1; sign test)" in lines[1]
    assert lines[5:] == ["| KID to the prior's samples | all | 0 of 1 | 1 |"], "equal part recalls are no pair"
    assert paired_at_best(rows[:3]) == []


def test_the_command_line_chooses_runs_in_the_place_of_the_plan(tmp_path, blind_judges):
    chosen = ["--kinds", "sds", "--scales", "2", "--particles", "3", "--seeds", "1", "--prompts", "a red car"]
    claims.main(["--quick", "--only", "2d", "--out", str(tmp_path), *chosen, "--steps", "4"])
    rows = [row for row in rows_of(tmp_path / "2d.csv") if row["kind"] != "prior"]
    figures = ("prompt", "kind", "scale", "particles", "seed", "steps")
    expected = ["a red car, front left view", "sds", "2.0", "3", "0", "4"]
    assert [[row[name] for name in figures] for row in rows] == [expected]
    assert "sign test" not in (tmp_path / "2d.md").read_text(), "one method alone has no pairs"


def test_another_prior_makes_runs_of_its_own(tmp_path, monkeypatch, blind_judges):
    chosen = ["--kinds", "sds", "--scales", "2", "--particles", "2", "--seeds", "1", "--prompts", "a red car"]
    command = ["--quick", "--only", "2d", "--out", str(tmp_path), *chosen]
    claims.main(command)
    run, ran = claims_2d.distil, []
    monkeypatch.setattr(claims_2d, "distil", lambda setting, own: ran.append(setting.kind) or run(setting, own=own))
    claims.main(command)
    assert ran == []
    monkeypatch.setattr(claims, "fingerprint", lambda pipeline: "another")
    claims.main(command)
    assert ran == ["sds"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--kinds", "ads"),
        ("--kinds", "vsd-0.75"),
        ("--scales", "nan"),
        ("--particles", "0"),
        ("--steps", "0"),
        ("--prompts", "a red sea"),
    ],
)
def test_runs_that_there_are_not_are_refused(option, value, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        claims.main(["--only", "2d", "--out", str(tmp_path / "out"), option, value])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and value.split()[-1] in line and not (tmp_path / "out").exists()


def test_a_plan_has_every_combination_once_and_csd_no_scale(tiny):
    keys = [setting.key for setting in claims_2d.settings(tiny)]
    assert len(keys) == len(set(keys)) == 2 * (2 + 2 + 1)
    assert all(setting.prompt == "a yellow duck, front left view" for setting in claims_2d.settings(tiny))


def test_a_run_follows_its_seed_and_more_particles_leave_the_number_of_steps():
    setting = Setting("a red car, front view", "vsd", 3.0, 2, 0, steps=2)
    (one, health), (same, _) = distil(setting), distil(setting)
    assert one.shape == (2, 3, 64, 64) and torch.equal(one, same)
    assert set(health) == {"phi_ratio", "phi_calibration"} and health["phi_ratio"] > 0
    other, none = distil(Setting("a red car, front view", "sds", 3.0, 2, 1, steps=2))
    assert none == {} and not torch.allclose(one, other)


def test_the_2d_report_holds_every_run_and_a_second_command_runs_nothing(tmp_path, monkeypatch, capsys, blind_judges):
    command = ["--quick", "--only", "2d", "--out", str(tmp_path)]
    claims.main(command)
    report = (tmp_path / "2d.md").read_text()
    assert report in capsys.readouterr().out
    rows = rows_of(tmp_path / "2d.csv")
    assert [row["kind"] for row in rows].count("vsd") == 4 and [row["kind"] for row in rows].count("prior") == 4
    distances = [float(r["kid_prior"]) for r in rows if r["kind"] == "sds" and r["scale"] == "3.0"]
    assert f"{mean(distances):.3f} ±" in report
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("2d.png", "2d-particles.png"))
    monkeypatch.setattr(claims_2d, "distil", lambda *_, **__: pytest.fail("it was run before"))
    claims.main(command)
    with pytest.raises(SystemExit) as ended:
        claims.main(["--quick", "--seeds", "0"])
    assert ended.value.code == 2


def test_the_guidance_on_the_page_gets_its_rows_beside_sds(tmp_path, monkeypatch, capsys, blind_judges):
    page = (Path(__file__).parents[2] / "docs" / "new-guidance.md").read_text()
    (program,) = re.findall(r'```python title="antithetic.py"\n(.*?)```', page, re.DOTALL)
    small = program.replace("particles=(8,)", "particles=(3,)").replace("steps=300", "steps=2")
    assert small.count("(3,)") == small.count("steps=2)") == 1
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(small, "antithetic.py", "exec"), names)
    rows = [line.split(" | ")[2:5] for line in capsys.readouterr().out.splitlines() if line.startswith("| a yellow")]
    assert rows == [[kind, "3", "2"] for kind in ("antithetic sds", "prior", "sds")], "method, scale, runs"
    core = names["Antithetic"](DiffusionPrior.load("toybox"), None, "sds", 1.0)
    x_0, eps = torch.randn(2, 1, *core.prior.latent_shape).unbind()
    conditions = Conditions(encode(core.prior, ["a red car"]))
    one, other = (core.gradient(x_0, torch.tensor([300]), noise, conditions) for noise in (eps, -eps))
    torch.testing.assert_close(one, other)


def test_a_guidance_of_ones_own_may_have_a_phi_and_decay(tiny):
    class Doubled(ScoreDistillation):
        def gradient(self, *args):
            return 2 * super().gradient(*args)

    plan = replace(tiny, kinds=("vsd", "doubled", "doubled, decay"), scales=(1.0,), seeds=1)
    plain, own, decay = claims_2d.settings(plan)
    assert (own.kind, own.decay, decay.kind, decay.decay) == ("doubled", False, "doubled", True)
    (_, health), (_, none) = (distil(own, own={"doubled": (kind, Doubled)}) for kind in ("vsd", "sds"))
    assert health["phi_ratio"] > 0 and none == {}
    with pytest.raises(InputError, match="'doubled' is not one of"):
        distil(own)


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_of_a_run_is_named_and_the_run_repeated(tmp_path, monkeypatch, caplog, how):
    setting = Setting("a yellow duck", "sds", 1.0, 2, 0, 2)
    runs = iter([torch.zeros(2, 3, SIZE, SIZE), torch.ones(2, 3, SIZE, SIZE)])
    monkeypatch.setattr(claims_2d, "distil", lambda setting, own: (next(runs), {"phi_loss": 0.5}))
    before = claims_2d.particles(setting, tmp_path)[0]
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes({"cut": content[:-100], "flipped": content, "foreign": b"no tensors"}[how])
    again, figures = claims_2d.particles(setting, tmp_path)
    assert not torch.equal(again.rgb, before.rgb) and figures["phi_loss"] == 0.5
    assert f"{file} is damaged" in caplog.text
    assert torch.equal(claims_2d.particles(setting, tmp_path)[0].rgb, again.rgb), "the new file is used"


def test_a_3d_run_has_the_presets_schedules_per_particle(tmp_path):
    options = options_of(Setting3D("a yellow duck", "vsd", 7.5, particles=3, steps=450), tmp_path)
    guidance = "--trainer.callbacks.init_args."
    assert "--trainer.max_steps=1350" in options and f"{guidance}timesteps.steps=450" in options
    assert f"{guidance}score.warm_start=225" in options and f"{guidance}scale=7.5" in options
    assert any('"step": 600' in option for option in options), "200 steps of each of three particles"


def test_the_3d_report_measures_runs_with_equal_steps_and_in_equal_time(
    tmp_path, monkeypatch, blind_judges, drawn_samples, tiny_3d
):
    """Samples and truth are drawn at random, the NeRFs are real ones after two steps."""
    claims.main(["--quick", "--only", "3d", "--out", str(tmp_path)])
    rows = rows_of(tmp_path / "3d.csv")
    assert [row["kind"] for row in rows] == ["prior", "sds", "vsd", "sds, equal time"]
    assert all(float(row["diversity"]) >= 0 for row in rows) and float(rows[2]["phi_ratio"]) > 0 == len(
        rows[1]["phi_ratio"]
    )
    assert (tmp_path / "3d-particles.png").stat().st_size > 1000
    monkeypatch.setattr("evaluation.particles_3d.run", lambda _: pytest.fail("it was run before"))
    (of_prior,) = (tmp_path / "runs").iterdir()
    again = claims_3d.measure(replace(tiny_3d, equal_time=False), of_prior)[0]
    assert [row["kind"] for row in again] == ["prior", "sds", "vsd"]


@pytest.mark.parametrize(("count", "seen"), [(1, 8), (2, 8), (3, 6), (4, 8), (8, 8), (12, 8)])
def test_a_row_of_pictures_shows_as_many_particles_as_fit(count, seen):
    rgb = torch.arange(count).float()[:, None, None, None, None].expand(count, 8, 3, 2, 2)
    shown = claims_3d.particles_shown(rgb)[:, 0, 0, 0]
    assert len(shown) == seen and len(shown.unique()) == min(count, 8) and (shown.diff() >= 0).all()
