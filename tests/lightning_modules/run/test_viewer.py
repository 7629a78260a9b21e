import csv
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import UNSEEN, assert_same_end, fit, fit_after
from small_views import Looker, Panel, stage_of, step, viewing

from common.errors import InputError
from lightning_modules import cli
from lightning_modules.run import viewer as module
from lightning_modules.run.folder import DREAM, LAST
from lightning_modules.run.heartbeat import Heartbeats
from lightning_modules.run.pictures import finished, save_video, turntable_frame
from lightning_modules.run.viewer import Viewer

pytest.importorskip("viser")  # whose rotations cameras come in


@pytest.fixture
def panels(monkeypatch):
    """The pages that were opened; they need no server."""
    opened = []

    def opening(*options):
        opened.append(Panel(*options))
        return opened[-1]

    monkeypatch.setattr(module, "Panel", opening)
    return opened


@pytest.fixture
def stage(tmp_path, panels):
    return stage_of(tmp_path)


def test_nothing_is_rendered_while_nobody_looks(stage, panels):
    step(viewing(stage), stage, 50)
    assert stage.rendered == [] and panels[0].words == []


def test_one_sees_the_chosen_particle_and_what_of_it_is_asked_for(stage, panels):
    viewer, looker = viewing(stage, fraction=1), Looker()
    panels[0].lookers, panels[0].particle = [looker], 1
    step(viewer, stage)
    assert stage.rendered == [1] and looker.pictures[0].shape == (32, 32, 3)
    assert looker.pictures[0][16, 16].tolist() == pytest.approx([255, 127, 127], abs=8), "the ball's front faces +x"
    assert (looker.pictures[0][0, 0] == 0).all()
    panels[0].column = 3
    step(viewer, stage)
    assert (looker.pictures[1] == 255).all(), "the last column, where a stage has fewer"
    assert "step 1/1000000" in panels[0].words and any(word.startswith("particle ") for word in panels[0].words)


def test_pictures_take_their_fraction_of_the_time(stage, panels, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    inner = stage.picture

    def slow(*given):
        now[0] += 1.0
        return inner(*given)

    stage.picture = slow
    viewer = viewing(stage, fraction=0.2)
    panels[0].lookers = [Looker(0), Looker(1)]
    for _ in range(1000):
        now[0] += 0.1
        step(viewer, stage)
    assert len(stage.rendered) / now[0] == pytest.approx(0.2, rel=0.05)
    assert [len(one.pictures) for one in panels[0].lookers] == pytest.approx([len(stage.rendered) / 2] * 2, abs=1)


def test_a_scale_reaches_the_guidance_and_is_told(stage, panels, capsys):
    viewer = viewing(stage)
    step(viewer, stage, 3)
    assert stage.guidances[0].core.scale == 7.5
    panels[0].scales["sds"] = 12.0
    step(viewer, stage, 2)
    assert stage.guidances[0].core.scale == 12.0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "scale" in line]
    assert line.startswith("live view: scale of sds 7.5 -> 12 at step 4")


def test_a_pause_holds_the_step_and_keeps_showing(stage, panels, capsys):
    viewer, looker = viewing(stage), Looker()
    panel = panels[0]
    panel.lookers, panel.paused = [looker], True
    ended = threading.Event()

    def train():
        step(viewer, stage)
        ended.set()

    threading.Thread(target=train, daemon=True).start()
    assert not ended.wait(0.2) and looker.pictures
    seen = len(looker.pictures)
    looker.camera.update_timestamp = 2.0  # the camera moves
    assert not ended.wait(0.3)
    assert len(looker.pictures) == seen + 1, "once per view"
    panel.paused = False
    assert ended.wait(5) and stage.trainer.global_step == 1
    assert viewer.run.clock.speed < 0.3, "the wait is no time of training"


def test_a_signal_ends_a_pause(stage, panels):
    viewer = viewing(stage)
    panels[0].paused = stage.trainer.received_sigterm = True
    step(viewer, stage)


def test_snapshots_are_files_of_the_run(stage, panels, tmp_path, capsys):
    viewer, looker = viewing(stage), Looker(3)
    panels[0].lookers = [looker]
    panels[0].asked += [3, 3, 99]  # the last of them has left
    step(viewer, stage)
    names = ["particle0-step000001-2.png", "particle0-step000001.png"]
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == names
    with Image.open(tmp_path / "snapshots" / names[1]) as image:
        assert image.size == (32, 32) and image.getpixel((16, 16)) == pytest.approx((255, 127, 127), abs=8)
    assert looker.notes == [f"snapshots/{name}" for name in reversed(names)]


def test_ranks_agree_now_and_then_on_what_the_first_one_is_asked_for(stage, panels):
    viewer, calls = viewing(stage), []
    stage.trainer.world_size = 2
    stage.trainer.strategy.broadcast = lambda asked: calls.append(stage.trainer.global_step) or asked
    step(viewer, stage, 25)
    assert calls == [10, 20]


def test_a_pause_of_several_ranks_is_no_stall(stage, panels):
    stage.trainer.is_global_zero, beats, moves = False, Heartbeats(), []
    stage.trainer.callbacks = [*stage.trainer.callbacks, beats]
    viewer = viewing(stage)
    stage.trainer.strategy.broadcast = lambda asked: ({}, moves.append(beats.moves) or len(moves) < 4)
    step(viewer, stage)
    assert moves == [1, 2, 3, 4]


def test_another_rank_opens_no_page_and_takes_what_it_is_told(stage, panels):
    stage.trainer.is_global_zero = False
    viewer = viewing(stage)
    stage.trainer.strategy.broadcast = lambda asked: ({"sds": 3.0}, False)
    step(viewer, stage)
    assert panels == [] and stage.guidances[0].core.scale == 3.0


def test_finished_stages_of_dream_show_their_turntables(tmp_path):
    frames = torch.stack([torch.full((32, 64, 3), i * 0.25) for i in range(4)])
    for name in ("nerf", "geometry"):
        save_video(frames, tmp_path / name / "turntable-particle0.mp4")
    assert finished(tmp_path / "geometry") == {}, "it is no run of dream"
    (tmp_path / DREAM).touch()
    assert finished(tmp_path / "geometry") == {"nerf": tmp_path / "nerf"}
    for azimuth, value in ((0, 0), (80, 64), (-90, 191), (359, 0)):
        frame = turntable_frame(tmp_path / "nerf", 0, azimuth)
        assert frame.shape == (32, 64, 3) and float(frame.float().mean()) == pytest.approx(value, abs=6)


@pytest.mark.parametrize(
    ("options", "named"), [({"port": 80}, "viewer.port"), ({"size": 1}, "viewer.size"), ({"fraction": 0}, "fraction")]
)
def test_impossible_options(options, named):
    with pytest.raises(InputError, match=named):
        Viewer(**options)


def viewed(panels, monkeypatch, **asked):
    """Has somebody look at every step of the runs that follow. asked: what the page says."""
    numbers = []

    def opening(*options):
        panel = Panel(*options)
        panel.lookers = [Looker()]
        vars(panel).update(asked)
        panels.append(panel)
        return panel

    def states():
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]

    real = Viewer.picture

    def picture(self, stage, client):
        before = states()
        image = real(self, stage, client)
        assert states() == before
        numbers.append(stage.global_step)
        return image

    monkeypatch.setattr(module, "Panel", opening)
    monkeypatch.setattr(Viewer, "picture", picture)
    return numbers


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("kind", ["nerf", "geometry"])
def test_a_run_that_is_looked_at_ends_like_one_that_is_not(kind, whole, request, tmp_path, panels, monkeypatch, capsys):
    numbers = viewed(panels, monkeypatch)
    options = f"--trainer.default_root_dir={tmp_path / 'seen'}", "--trainer.val_check_interval=4", UNSEEN
    options = *options, "--view", "--viewer.fraction=1"
    if kind == "nerf":
        fit(*options, steps=8)
        other = whole
    else:
        fit_after("geometry", whole, *options, steps=4)
        other = request.getfixturevalue("geometry")
    assert len(numbers) >= 3 and panels[0].closed
    assert_same_end(tmp_path / "seen", other)
    ours, theirs = (torch.load(folder / LAST, weights_only=True)["callbacks"] for folder in (tmp_path / "seen", other))
    (key,) = [key for key in ours if key.startswith("VSDGuidance")]
    assert ours[key]["calls"] == theirs[key]["calls"]
    if "score" in ours[key]:
        torch.testing.assert_close(ours[key]["score"], theirs[key]["score"], rtol=0, atol=0)
    assert "live view: http://127.0.0.1:8080" in capsys.readouterr().out
    assert "view: false" in (tmp_path / "seen" / "config.yaml").read_text(), "a resumed run has its own"


@pytest.mark.usefixtures("elsewhere")
def test_a_scale_of_the_page_moves_the_particles(whole, tmp_path, panels, monkeypatch):
    viewed(panels, monkeypatch, scales={"vsd": 9.0})
    folder = f"--trainer.default_root_dir={tmp_path / 'steered'}"
    command = fit(folder, UNSEEN, "--view", steps=2)
    assert command.model.guidances[0].core.scale == 9.0
    ours, theirs = (
        [float(row["train/guidance"]) for row in csv.DictReader(text.splitlines()) if row["train/guidance"]]
        for text in ((run / "metrics.csv").read_text() for run in (tmp_path / "steered", whole))
    )
    assert ours[0] == theirs[0] and ours[1] > 4 * theirs[1], "from the second step on"


@pytest.mark.usefixtures("elsewhere")
def test_a_stage_without_objects_has_no_view(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "--config", str(Path(__file__).parents[3] / "configs/toybox/image.yaml"), "--view"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "vsd: --view: lightning_modules.image.ImageStage shows no object; leave it out\n"
