"""The command evaluation.score on small runs of all stages, with judges that know nothing."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluation import measures, score
from evaluation import truth_distance as td
from evaluation.measures import Judges
from evaluation.prior_samples import prior_samples
from evaluation.runs import load_result, stage_folder
from lightning_modules.cli import run
from lightning_modules.run.folder import DREAM
from scene.cameras import turntable
from toybox.judges.parts import PartsJudge
from toybox.judges.parts_network import PartsNetwork
from toybox.judges.views import ViewClassifier

CONFIGS = Path(__file__).parents[2] / "configs" / "toybox"
SMALL = [
    *("--data.eval_frames=2", "--data.validation_frames=2", "--data.eval_resolution=16", "--model.particles=2"),
    *("--data.milestones=[{step: 0, resolution: 32, batch_size: 2}]", "--trainer.limit_test_batches=0"),
    *("--trainer.enable_model_summary=false", "--trainer.accelerator=cpu", "--trainer.limit_val_batches=0"),
]
NERF = ["--model.field.hidden=8", "--model.field.occupancy=8", "--model.field.samples=16"]


def fit(stage, folder, *more, small=SMALL):
    arguments = ["--config", str(CONFIGS / f"{stage}.yaml"), "--prompt", "a yellow duck"]
    run(["fit", *arguments, *small, f"--trainer.default_root_dir={folder}", "--trainer.max_steps=1", *more])


@pytest.fixture(scope="module")
def dreamt(tmp_path_factory):
    """A folder as `dream` leaves it, of two particles and one step per stage."""
    folder = tmp_path_factory.mktemp("dreamt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vsd"])
        fit("nerf", folder / "nerf", "--trainer.callbacks.kind=sds", "--trainer.callbacks.score.warm_start=0", *NERF)
        given = [f"--model.nerf={folder / 'nerf'}", "--trainer.callbacks.kind=sds"]
        fit("geometry", folder / "geometry", *given, "--model.resolution=12", "--model.start_size=32")
        given += [f"--model.geometry={folder / 'geometry'}", "--trainer.callbacks.score.warm_start=0"]
        fit("texture", folder / "texture", *given, "--model.texture_size=256")
    (folder / DREAM).touch()
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Judges that know nothing, few instances, few samples; three are the fewest that have a KID in one view."""
    monkeypatch.setattr(sys, "argv", ["score"])
    judges = Judges(PartsJudge(PartsNetwork().eval()), ViewClassifier().eval())
    monkeypatch.setattr(score, "load_judges", lambda name: judges)
    monkeypatch.setattr(measures.truth_for, "__defaults__", (3, 0))
    monkeypatch.setattr(score, "OTHERS", 2)
    monkeypatch.setattr(score, "prior_samples", partial(prior_samples, count=3, steps=2))
    monkeypatch.setattr(td, "OBJECTS", {name: None for name in ("duck", "table")})
    monkeypatch.setattr(td, "INSTANCES", 2)
    monkeypatch.setattr(measures, "NEAREST_OF", 2)
    td.scale.cache_clear()
    yield
    td.scale.cache_clear()


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture"])
def test_every_stage_is_seen_from_the_cameras_of_a_look(dreamt, stage, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["score"])
    before = {path: path.stat().st_mtime_ns for path in (dreamt / stage).rglob("*")}
    result = load_result(dreamt / stage, views=4, size=32)
    assert result.prompt == "a yellow duck" and result.prior == "toybox"
    rgb, mask = result.pictures.rgb, result.pictures.mask
    assert rgb.shape == (2, 4, 3, 32, 32) and 0.02 < mask.float().mean() < 0.9
    assert (rgb[..., :2, :2] > 0.9).all() and not mask[..., 0].any(), "over white"
    assert torch.allclose(result.cameras.azimuth, turntable(4).azimuth)
    assert before == {path: path.stat().st_mtime_ns for path in (dreamt / stage).rglob("*")}, "nothing is written"


def test_of_a_dream_folder_the_last_stage_is_meant_wherever_it_lies(dreamt, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["score"])
    assert stage_folder(dreamt) == dreamt / "texture"
    moved = dreamt.rename(tmp_path / "moved")
    try:
        assert load_result(moved, views=2, size=16).stage == "TextureStage"
    finally:
        moved.rename(dreamt)


def test_json_has_the_figures_of_the_run_and_its_references(dreamt, quick, capsys):
    score.main([str(dreamt / "nerf"), "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    asked = "part_recall part_recall_prior false_parts sharpness patch_distance kid kid_reference janus diversity"
    for key in [*asked.split(), "truth_score"]:
        assert isinstance(figures[key], float), key
    assert figures["run"] == str(dreamt / "nerf") and figures["truth_score"] < 1 and figures["sharpness"] < 1
    with Image.open(dreamt / "nerf" / "score.png") as sheet:
        assert sheet.width == 8 * 128 + 150 and sheet.height == 4 * 128 + 16


def test_the_table_has_both_reference_rows(dreamt, quick, capsys, tmp_path):
    score.main([str(dreamt / "nerf"), "--views", "4", "--export", str(tmp_path)])
    head, mine, truth, prior = capsys.readouterr().out.splitlines()
    names = head.split()
    assert names[0] == "part_recall" and mine.split()[0].endswith("nerf")
    assert truth.strip().startswith("truth: a yellow duck") and prior.strip().startswith("prior: a yellow duck")
    figures = dict(zip(names, truth.split()[-len(names) :], strict=True))
    assert figures["truth_score"] == "-", "a look has eight views"
    assert 0.5 < float(figures["sharpness"]) < 2
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert len(files) == 8 and {path.name for path in files} == {f"{k}.png" for k in range(4)}


def test_a_2d_run_is_held_against_its_view(quick, tmp_path, capsys):
    fit(
        "image",
        tmp_path,
        *("--model.particles=4", "--model.particles_per_step=2", "--model.azimuth=90"),
        small=["--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"],
    )
    capsys.readouterr()
    score.main([str(tmp_path), "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["truth_score"] is None and isinstance(figures["diversity"], float)
    assert isinstance(figures["kid"], float) and isinstance(figures["kid_reference"], float)


def test_prior_samples_are_cached_by_their_weights(tmp_path, monkeypatch, untrained_prior):
    monkeypatch.setenv("VSD_CACHE", str(tmp_path))
    cameras = turntable(2, 15.0, 2.3, 40.0)
    drawn = prior_samples(str(untrained_prior), "mug", "red", cameras, count=3, steps=2)
    assert drawn.rgb.shape == (3, 2, 3, 64, 64)
    monkeypatch.setattr("evaluation.prior_samples.sample", lambda *_: 1 / 0)
    assert torch.equal(drawn.rgb, prior_samples(str(untrained_prior), "mug", "red", cameras, count=3, steps=2).rgb)
    with pytest.raises(ZeroDivisionError):
        prior_samples("toybox", "mug", "red", cameras, count=3, steps=2)  # other weights
    with pytest.raises(ZeroDivisionError):
        prior_samples(str(untrained_prior), "mug", "red", turntable(2, start=90.0), count=3, steps=2)


@pytest.mark.parametrize(
    ("change", "arguments", "named"),
    [
        (lambda run: (run / "config.yaml").unlink(), [], "config.yaml is missing"),
        (lambda run: _edit(run, "a yellow duck", "a yellow zebra"), [], "--clip"),
        (lambda run: _edit(run, "prompt: a yellow duck", "prompt: null"), [], "prompt: it is missing"),
        (lambda run: None, ["--views", "1"], "--views"),
        (lambda run: None, ["--size", "128"], "--size"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, quick, capsys, change, arguments, named):
    fit("nerf", tmp_path / "run", "--trainer.callbacks.kind=sds", *NERF, "--trainer.callbacks.score.warm_start=0")
    change(tmp_path / "run")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        score.main([str(tmp_path / "run"), *arguments])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2 and named in error.splitlines()[-1]


def _edit(folder, old, new):
    file = folder / "config.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
