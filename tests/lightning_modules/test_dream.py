import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import GEOMETRY, TEXTURE, TINY

from lightning_modules import dream
from lightning_modules.dream import FINISHED, SECONDS, main
from lightning_modules.dream_arguments import LOGGERS, parse
from lightning_modules.run.folder import CONFIG, DREAM, LAST, RunFolder
from lightning_modules.run.parent import die_with_parent
from lightning_modules.run.place import Place, place
from lightning_modules.run.time_left import Part
from lightning_modules.wish import PRESETS, STAGES, Wish, config_of, options_of

SHORT = {
    stage: [option for option in options if "particles" not in option] + ["--trainer.max_steps=2"]
    for stage, options in {"nerf": TINY, "geometry": GEOMETRY, "texture": TEXTURE}.items()
}
MADE = [str(LAST), CONFIG, "contact-particle0.png", "metrics.csv", "turntable-particle0.mp4"]
MESHES = [f"mesh-particle0.{end}" for end in ("glb", "mtl", "obj", "png")]


pytestmark = pytest.mark.usefixtures("elsewhere")


def ended(*args, more=None):
    with pytest.raises(SystemExit) as end:
        main([*args], more)
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "prompt: it is empty"),
        (["  "], "prompt: it is empty"),
        (["a ${colour} car"], "prompt: it holds '${'"),
        (["a car", "--preset", "sd99"], "--preset: 'sd99' is not one of toybox, "),
        (["a car", "--particles", "0"], "--particles: 0 is not in [1, 10000]"),
        (["a car", "--seed", "-1"], "--seed: -1"),
        (["a car", "--out", "/proc/nowhere"], "--out: /proc/nowhere cannot be made"),
        (["a car", "--out", "full"], "--out: full is not empty"),
        (["--resume", "full"], "--resume: full is no run of dream"),
        (["--resume", "nowhere"], "--resume: nowhere is no run of dream"),
        (["--resume", "broken"], "broken/dream.yaml is damaged"),
        (["--resume", "run", "--out", "new"], "--out: "),
        (["a blue car", "--resume", "run"], "prompt: run was started with 'a red car'"),
        (["--resume", "run", "--particles", "2"], "particles: run was started with 1"),
        (["--resume", "run", "--", "--trainer.devices=2"], "overrides: run was started with []"),
        (["a car", "--", "-c", "nowhere.yaml"], "-c: nowhere.yaml does not exist"),
        (["a car", "--", "--config=nowhere.yaml"], "--config: nowhere.yaml does not exist"),
        (["a car", "--", "--trainer.devices", "auto"], "--trainer.devices: 'auto'; dream needs a number"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(elsewhere, capsys, arguments, named):
    for folder, text in (("full", None), ("broken", "prompt: {a"), ("run", "prompt: a red car")):
        (elsewhere / folder).mkdir()
        (elsewhere / folder / (DREAM if text else "note")).write_text(text or "")
    before = sorted(elsewhere.rglob("*"))
    assert ended(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dream: ") and named in line
    assert sorted(elsewhere.rglob("*")) == before


def test_the_command_answers_before_it_loads_what_trains():
    code = "import sys; import lightning_modules.dream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_particle_gets_the_steps_and_the_resolutions_of_one(preset, stage):
    given = yaml.safe_load(config_of(preset, stage).read_text())
    options = dict(o.split("=", 1) for o in options_of(Wish("a car", preset, particles=4), stage) if "=" in o)
    assert int(options["--trainer.max_steps"]) == 4 * given["trainer"]["max_steps"]
    ours, theirs = yaml.safe_load(options["--data.milestones"]), given["data"]["init_args"]["milestones"]
    assert [m["step"] for m in ours] == [4 * m["step"] for m in theirs]
    assert [m["resolution"] for m in ours] == [m["resolution"] for m in theirs]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_preset_has_a_file_for_every_stage(preset, stage):
    assert config_of(preset, stage).is_file()


def test_a_prompt_becomes_a_folder_and_a_finished_stage_is_not_run_again(elsewhere, capfd):
    assert ended("a red mushroom", "--seed", "7", more=SHORT) == 0
    (folder,) = (elsewhere / "runs" / "a-red-mushroom").iterdir()
    wished = {"overrides": [], "particles": 1, "preset": "toybox", "prompt": "a red mushroom", "seed": 7}
    assert yaml.safe_load((folder / DREAM).read_text()) == wished
    for stage in STAGES:
        record = yaml.safe_load((folder / stage / CONFIG).read_text())
        seeds = [record["model"], record["data"], *record["trainer"]["callbacks"]]
        assert record["prompt"] == "a red mushroom" and {part["init_args"]["seed"] for part in seeds} == {7}
    inside = folder.relative_to(elsewhere)
    files = [inside / stage / name for stage in STAGES for name in MADE]
    files[-2:-2] = [inside / "texture" / name for name in MESHES]
    times, told = capfd.readouterr().out.splitlines()[-2:]
    assert Path(told) == inside / "texture" / "mesh-particle0.glb" and all(path.is_file() for path in files)
    assert re.fullmatch(r"nerf \d+ s, geometry \d+ s, texture \d+ s; \d+ s in all", times)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert ended("--resume", str(folder)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert capfd.readouterr().out.splitlines() == [told], "the mesh is told again"


class Stage:
    """In the place of a stage's process: keeps the command and ends with a code."""

    code = 0

    def __init__(self, command, env, preexec_fn):
        assert preexec_fn.func is die_with_parent
        Stage.places.append(place(env))
        Stage.command, Stage.ended = command, False
        Stage.commands.append(command)

    def wait(self):
        if Stage.code == 143:
            signal.raise_signal(signal.SIGTERM)
        return Stage.code

    def terminate(self):
        Stage.ended = True


@pytest.fixture
def stage(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Stage)
    Stage.commands, Stage.places = [], []
    return Stage


def test_a_run_that_is_going_on_is_not_resumed_beside_itself(elsewhere, capsys):
    (elsewhere / "run").mkdir()
    (elsewhere / "run" / DREAM).write_text("prompt: a red car")
    folder = RunFolder(Path("run"), None)
    folder.reserve()
    assert ended("--resume", "run") == 2
    assert capsys.readouterr().err.startswith("dream: --resume: a run is going on in ")
    folder.release()


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_logger_is_asked_for_by_name_and_recorded(elsewhere, stage, logger):
    stage.code = 0
    for name in STAGES:
        (elsewhere / "run" / name).mkdir(parents=True)
    wish, _, _ = parse(["a red car", "--out", "new", "--log", logger])
    assert wish.overrides[0] == "--config" and Path(wish.overrides[1]).name == f"{logger}.yaml"
    assert options_of(wish, "nerf")[-2:] == wish.overrides and Path(wish.overrides[1]).is_file()


@pytest.mark.parametrize("code", [2, 130, 143, -9])
def test_a_stage_that_stops_ends_the_command_with_its_code(elsewhere, stage, code):
    stage.code = code
    assert ended("a red car", "--out", "new") == (code if code >= 0 else 137)
    assert stage.ended == (code == 143), "SIGTERM is handed on"
    assert not list(elsewhere.iterdir()), "the stage has written nothing, so nothing is left"


def test_a_stage_that_was_stopped_goes_on(elsewhere, stage):
    stage.code = 0
    record = elsewhere / "run" / STAGES[0] / CONFIG
    for name in STAGES:
        (record.parents[1] / name).mkdir(parents=True)
    record.touch()
    (elsewhere / "run" / DREAM).write_text("prompt: a red car")
    assert ended("--resume", "run") == 0
    (resumed,) = [command for command in stage.commands if str(record) in command]
    assert resumed[-4:] == ["--config", str(record), "--ckpt_path", "last"]
    assert (record.parent / FINISHED).exists()


@pytest.mark.parametrize("code", [0, 130])
def test_the_time_of_a_stage_counts_its_earlier_sessions(elsewhere, stage, monkeypatch, code):
    stage.code = code
    now = iter(range(0, 1000, 7))
    monkeypatch.setattr(dream, "monotonic", lambda: next(now))
    (elsewhere / "run" / "nerf").mkdir(parents=True)
    (elsewhere / "run" / "nerf" / SECONDS).write_text("100.5\n")
    (elsewhere / "run" / DREAM).write_text("prompt: a red car")
    for name in STAGES[1:]:
        (elsewhere / "run" / name).mkdir()
    assert ended("--resume", "run") == code
    assert (elsewhere / "run" / "nerf" / SECONDS).read_text() == "107.5\n"
    assert (elsewhere / "run" / "geometry" / SECONDS).exists() == (code == 0)


@pytest.mark.parametrize("code", [0, 130])
def test_what_comes_at_the_end_comes_when_all_is_through(elsewhere, stage, code):
    stage.code = code
    for name in STAGES:
        (elsewhere / "run" / name).mkdir(parents=True)
    (elsewhere / "run" / DREAM).write_text("prompt: a red car")
    seen = []
    with pytest.raises(SystemExit) as end:
        main(["--resume", "run"], at_end=seen.append)
    assert end.value.code == code and seen == ([elsewhere / "run"] if code == 0 else [])


def test_a_stage_is_handed_those_before_it_from_where_they_lie_now(elsewhere, stage):
    stage.code = 0
    run = elsewhere / "moved"
    run.mkdir()
    (run / DREAM).write_text("prompt: a red car")
    for name in STAGES:
        (run / name).mkdir()
        (run / name / FINISHED).touch()
    (run / "texture" / FINISHED).unlink()
    (run / "texture" / CONFIG).touch()
    assert ended("--resume", str(run)) == 0
    assert stage.command[-2:] == [f"--model.nerf={run / 'nerf'}", f"--model.geometry={run / 'geometry'}"]


@pytest.mark.parametrize(
    ("particles", "overrides", "factor"),
    [
        (4, ["--trainer.devices", "4"], 1),
        (4, ["--trainer.devices=2"], 2),
        (4, ["--trainer.devices=2", "--trainer.num_nodes=2"], 1),
        (4, ["-c", "two.yaml"], 2),
        (3, ["--trainer.devices=2"], 2),
        (1, ["--trainer.devices=4"], 1),
        (4, ["-c", "logger.yaml"], 4),
    ],
)
def test_several_devices_share_the_particles_steps(elsewhere, particles, overrides, factor):
    Path("two.yaml").write_text("trainer: {devices: 2}")
    Path("logger.yaml").write_text("trainer: {logger: false}")
    given = yaml.safe_load(config_of("toybox", "nerf").read_text())
    *options, last = options_of(Wish("a car", particles=particles, overrides=overrides), "nerf")
    assert f"--trainer.max_steps={factor * given['trainer']['max_steps']}" in options
    assert last == overrides[-1], "what is said last counts"


def test_overrides_reach_every_stage_and_are_repeated_when_a_run_resumes(elsewhere, stage, monkeypatch):
    stage.code = 0
    Path("log.yaml").write_text("trainer: {logger: false}")
    told = ["--trainer.devices", "2", "-c", str(elsewhere / "log.yaml"), "--model.particles_per_step=1"]
    asked = ["--trainer.devices", "2", "-c", "log.yaml", "--model.particles_per_step=1"]
    stage.code = 7
    (elsewhere / "run").mkdir()
    assert ended("a red car", "--particles", "2", "--out", "run", "--", *asked) == 7
    assert not (elsewhere / "run" / DREAM).exists(), "nothing has begun"

    def begin(command, env, **more):
        Path(command[-1].partition("=")[2]).mkdir(parents=True, exist_ok=True)
        (Path(command[-1].partition("=")[2]) / CONFIG).touch()
        return Stage(command, env, **more)

    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **more: begin([*command], env, **more))
    assert ended("a red car", "--particles", "2", "--out", "run", "--", *asked) == 7
    assert yaml.safe_load((elsewhere / "run" / DREAM).read_text())["overrides"] == told
    (elsewhere / "other").mkdir()
    monkeypatch.chdir(elsewhere / "other")
    monkeypatch.setattr(subprocess, "Popen", Stage)
    stage.code, stage.commands[:] = 0, []
    for name in STAGES:
        (elsewhere / "run" / name).mkdir(exist_ok=True)
    assert ended("--resume", "../run") == 0
    first, *rest = stage.commands
    assert "--ckpt_path" in first and told[0] not in first, "its record holds them"
    assert len(rest) == 2 and all(" ".join(told) in " ".join(command) for command in rest)


@pytest.mark.parametrize("particles", [1, 3])
def test_every_stage_knows_the_steps_before_it_and_after_it(elsewhere, stage, particles):
    stage.code = 0
    for name in STAGES:
        (elsewhere / "run" / name).mkdir(parents=True)
    (elsewhere / "run" / DREAM).write_text(f"prompt: a red car\nparticles: {particles}")
    more = {"texture": ["--trainer.max_steps", "500"]}
    assert ended("--resume", "run", "--quiet", more=more) == 0
    n = particles
    surface, colours = [Part(200 * n, phi=False)], [Part(80 * n, phi=False), Part(500 - 80 * n, phi=True)]
    assert stage.places == [
        Place("nerf", 1, 3, 0, [*surface, *colours], quiet=True),
        Place("geometry", 2, 3, 900 * n, colours, quiet=True),
        Place("texture", 3, 3, 1100 * n, [], quiet=True),
    ]
