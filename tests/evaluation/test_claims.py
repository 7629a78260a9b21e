import csv
from statistics import mean

import pytest
import torch

from evaluation import claims
from evaluation.claims_report import interval, sign_test
from evaluation.measures import Judges
from evaluation.particles_2d import Setting, distil
from toybox.judges.parts import PartsJudge
from toybox.judges.parts_network import PartsNetwork
from toybox.judges.views import ViewClassifier

TINY = claims.Plan(("a yellow duck",), ("sds", "vsd", "csd"), (1.0, 3.0), (3,), 2, steps=2)


def test_the_sign_test_is_the_binomial_distribution():
    assert sign_test(5, 5) == sign_test(0, 5) == pytest.approx(2 / 32)
    assert sign_test(4, 5) == pytest.approx(2 * 6 / 32) and sign_test(3, 6) == 1.0 and sign_test(0, 0) == 1.0


def test_an_interval_is_a_mean_and_its_standard_error():
    assert interval([1.0, 2.0, 3.0]) == f"2.000 ± {1 / 3**0.5:.3f}" and interval([2.0]) == "2.000"


def test_a_plan_has_every_combination_once_and_csd_no_scale():
    keys = [setting.key for setting in claims.settings(TINY)]
    assert len(keys) == len(set(keys)) == 2 * (2 + 2 + 1)
    assert all(setting.prompt == "a yellow duck, front left view" for setting in claims.settings(TINY))


def test_a_run_follows_its_seed_and_more_particles_leave_the_number_of_steps():
    setting = Setting("a red car, front view", "vsd", 3.0, 2, 0, steps=2)
    (one, health), (same, _) = distil(setting), distil(setting)
    assert one.shape == (2, 3, 64, 64) and torch.equal(one, same)
    assert set(health) == {"phi_ratio", "phi_calibration"} and health["phi_ratio"] > 0
    other, none = distil(Setting("a red car, front view", "sds", 3.0, 2, 1, steps=2))
    assert none == {} and not torch.allclose(one, other)


def test_the_report_holds_every_run_and_a_second_command_runs_nothing(tmp_path, monkeypatch, capsys):
    """With judges of random weights and few samples: the figures mean nothing, the table is whole."""
    monkeypatch.setattr(
        claims, "load_judges", lambda _: Judges(PartsJudge(PartsNetwork().eval()), ViewClassifier().eval())
    )
    monkeypatch.setattr(claims, "SAMPLES", 4)
    monkeypatch.setattr(claims, "QUICK", TINY)
    claims.main(["--quick", "--out", str(tmp_path)])
    table = (tmp_path / "claims.md").read_text()
    assert table in capsys.readouterr().out
    with open(tmp_path / "claims.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows].count("vsd") == 4 and [row["kind"] for row in rows].count("prior") == 4
    seconds = [float(r["kid_prior"]) for r in rows if r["kind"] == "sds" and r["scale"] == "3.0"]
    assert f"{mean(seconds):.3f} ±" in table
    assert (tmp_path / "claims.png").stat().st_size > 1000 and (tmp_path / "particles.png").stat().st_size > 1000
    monkeypatch.setattr(claims, "distil", lambda setting: pytest.fail("it was run before"))
    claims.main(["--quick", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        claims.main(["--quick", "--seeds", "1"])
    assert ended.value.code == 2
