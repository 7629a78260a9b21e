"""Command lines that must be refused: exit code 2, one line that names the key, nothing left in the folder."""

import itertools
from pathlib import Path

import pytest
from small_runs import NERF, SMALL

from lightning_modules import cli, dream

pytestmark = pytest.mark.usefixtures("elsewhere")

STAGES = {
    "nerf": ["fit", "--config", NERF, *SMALL, "--trainer.max_steps=1"],
    "image": ["fit", "--config", str(Path(NERF).with_name("image.yaml"))],
    "geometry": ["fit", "--config", str(Path(NERF).with_name("geometry.yaml")), "--model.nerf=nowhere"],
    "texture": ["fit", "--config", str(Path(NERF).with_name("texture.yaml")), "--model.nerf=nowhere"],
}
LONG = "x" * 5000


def lines(stage, keys, values):
    """A line for every key, separated by spaces, and every value."""
    return [(stage, [f"--{key}={value}"], key) for key, value in itertools.product(keys.split(), values)]


WRONG_TYPE = [
    *lines("nerf", "model.lr_encoding model.lr_decay model.field.bound model.losses.entropy", ["often", "[1]"]),
    *lines("nerf", "model.particles model.field.hidden model.seed checkpoint.every", ["1.5", "many"]),
    *lines("nerf", "data.eval_fovy data.eval_frames data.cameras.sphere_share data.seed", ["wide"]),
    *lines("nerf", "data.milestones", ["often", "[{step: 0, resolution: abc}]", "[1]"]),
    *lines("nerf", "data.cameras.distance data.cameras.fovy", ["1", "[1]", "[1, 2, 3]", "[near, far]", "[.nan, 2]"]),
    *lines("nerf", "trainer.callbacks.scale trainer.callbacks.score.lr trainer.callbacks.score.updates", ["abc"]),
    *lines("nerf", "trainer.max_steps trainer.precision seed_everything", ["soon"]),
    *lines("nerf", "model.field.encoding trainer.callbacks.kind trainer.callbacks.dtype", ["best"]),
    *lines("nerf", "trainer checkpoint", ["null", "7"]),
    *lines("nerf", "model", ["null", "7", "NoStage"]),
    *lines("nerf", "model.class_path", ["nowhere.Stage", "os.system"]),
]
NOT_FINITE = [
    *lines("nerf", "model.lr_encoding model.lr_decay model.random_background model.field.bound", [".nan", ".inf"]),
    *lines("nerf", "model.field.strength model.field.radius model.losses.sparsity", [".nan", "-.inf"]),
    *lines("nerf", "trainer.callbacks.scale trainer.callbacks.rescale trainer.callbacks.clamp", [".nan", ".inf"]),
    *lines("nerf", "trainer.callbacks.score.lr trainer.callbacks.score.weight_limit", [".nan", ".inf"]),
    *lines("nerf", "data.cameras.position_jitter data.eval_distance data.eval_elevation", [".nan", ".inf"]),
    *lines("nerf", "trainer.gradient_clip_val trainer.callbacks.timesteps.low", [".nan"]),
    *lines("image", "model.lr model.azimuth model.ancestral_scale", [".nan", ".inf"]),
    *lines("geometry", "model.lr model.start_distance model.losses.laplacian", [".nan", ".inf"]),
    *lines("texture", "model.lr_network model.eval_background", [".nan"]),
]
OUT_OF_RANGE = [
    *lines("nerf", "model.lr_encoding model.lr_network model.lr_background model.losses.opaque", ["-0.1"]),
    *lines("nerf", "model.field.bound model.field.radius model.field.samples", ["0", "-1"]),
    *lines("nerf", "model.field.hidden", ["-1"]),
    *lines("nerf", "model.field.occupancy model.field.hidden", ["1000000"]),
    *lines("nerf", "model.random_background model.eval_background", ["-0.1", "1.1"]),
    *lines("nerf", "model.particles", ["-1", "1000000", "1000000000000"]),
    *lines("nerf", "model.seed data.seed trainer.callbacks.seed seed_everything", ["-1", "4294967296"]),
    *lines("nerf", "trainer.max_steps", ["-2", "-1", "0"]),
    *lines("nerf", "trainer.num_nodes trainer.log_every_n_steps trainer.max_epochs trainer.val_check_interval", ["0"]),
    *lines("nerf", "trainer.devices", ["0", "-2", "abc", "[0, 0]", "[]"]),
    *lines("nerf", "trainer.accelerator trainer.strategy", ["abc"]),
    *lines("nerf", "trainer.precision", ["bf16-true"]),
    *lines("nerf", "data.eval_resolution data.validation_frames", ["0", "-1"]),
    *lines("nerf", "data.eval_resolution", ["1000000"]),
    *lines("nerf", "data.milestones", ["[{step: 0, resolution: -5}]", "[{step: 1, resolution: 5}]", "[]"]),
    *lines("nerf", "data.milestones", ["[{step: 0, resolution: 1000000}]"]),
    *lines("nerf", "checkpoint.every", ["-1"]),
    *lines("image", "model.lr model.ancestral_scale", ["-1"]),
    *lines("image", "model.elevation", ["91"]),
    *lines("geometry", "model.resolution", ["2", "-1", "1000000"]),
    *lines("geometry", "model.start_fovy model.start_size model.start_distance", ["0", "-1"]),
    *lines("texture", "model.texture_size", ["0", "-1", "1000000"]),
    *lines("texture", "model.resolution", ["2"]),
]
GUIDANCE = [  # whose errors say guidance.KEY
    *lines("nerf", "scale perp_neg nan_limit factor esd_scale", ["-1"]),
    *lines("nerf", "clamp score.lr score.weight_limit score.rank score.updates timesteps.steps", ["0", "-1"]),
    *lines("nerf", "rescale score.camera_dropout score.phi_mix timesteps.low timesteps.switch", ["-0.1", "1.1"]),
    *lines("nerf", "score.warmup score.warm_start score.weight_decay", ["-1"]),
    *lines("nerf", "score.betas", ["[2, 3]", "[0.9, 1]"]),
]
PATHS = [
    *lines("nerf", "trainer.default_root_dir ckpt_path", ["", LONG, "a\0b"]),
    *lines("nerf", "config trainer.callbacks.model", [LONG]),
    *lines("geometry", "model.nerf", [LONG, "a\0b"]),
]
CASES = WRONG_TYPE + NOT_FINITE + OUT_OF_RANGE + PATHS
CASES += [(stage, [f"--trainer.callbacks.{o[0][2:]}"], key.rpartition(".")[2]) for stage, o, key in GUIDANCE]


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """A line that is let in fails the test."""

    def fit(*_, **__):
        raise AssertionError("the command line was let in")

    monkeypatch.setattr(cli.Command, "fit", fit)


def refused(capsys, main, args):
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("vsd: ", "dream: "))]
    assert len(line) < 600
    return line


@pytest.mark.parametrize(("stage", "options", "named"), CASES, ids=lambda v: str(v)[:60].replace("\0", "0"))
def test_a_broken_option_is_named_in_one_line_and_nothing_is_left(elsewhere, capsys, stage, options, named):
    line = refused(capsys, cli.main, [*STAGES[stage], *options])
    assert named.rpartition(".")[2].replace("class_path", "model") in line
    assert not list(elsewhere.iterdir())


def test_there_are_many_cases():
    assert len({str(case) for case in CASES}) == len(CASES) >= 150


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "twice": (b"prompt: a red car\nprompt: a blue car\n", "the key 'prompt' is there twice"),
    "bomb": (BOMB.encode(), "its aliases stand for more than"),
    "loop": (b"prompt: &a [*a]\n", "stands for itself"),
    "deep": (b"prompt: " + b"[" * 3000 + b"]" * 3000, "nest"),
    "binary": (bytes(range(256)), "is no text"),
    "cut": (b"trainer: {max_steps: [1\n", "did not find expected"),
    "list": (b"- 1\n- 2\n", "holds no options"),
    "empty": (b"", "holds no options"),
    "object": (b"prompt: !!python/object/apply:os.system [touch evil]\n", "could not determine a constructor"),
    "null": (b"trainer: {enable_autolog_hparams: null}\n", "trainer.enable_autolog_hparams: null"),
    "type": (b"model:\n  init_args:\n    lr_encoding: often\n", "model.lr_encoding: "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_configuration_is_one_line_and_nothing_is_left(elsewhere, capsys, name):
    content, named = FILES[name]
    (elsewhere / "broken.yaml").write_bytes(content)
    assert named in refused(capsys, cli.main, [*STAGES["nerf"], "--config", "broken.yaml"])
    assert [path.name for path in elsewhere.iterdir()] == ["broken.yaml"]


DREAM = [
    (["--out", ""], "--out"),
    (["--out", LONG], "--out"),
    (["--out", "a\0b"], "--out"),
    (["--particles", "two"], "--particles"),
    (["--particles", "1.5"], "--particles"),
    (["--seed", "4294967296"], "--seed"),
    (["--seed", "x"], "--seed"),
    (["--bogus"], "--bogus"),
    (["again"], "again"),
    (["--resume", ""], "--resume"),
    (["--resume", LONG], "--resume"),
    (["--", "--trainer.devices"], "--trainer.devices"),
    (["--", "-c", "binary.yaml"], "-c: "),
    (["--", "-c", "twice.yaml"], "'prompt' is there twice"),
]


@pytest.mark.parametrize(("options", "named"), DREAM, ids=lambda v: str(v)[:40].replace("\0", "0"))
def test_a_broken_command_line_of_dream_is_one_line_and_nothing_is_left(elsewhere, capsys, monkeypatch, options, named):
    monkeypatch.setattr(dream, "run_stage", None)
    for name in ("binary", "twice"):
        (elsewhere / f"{name}.yaml").write_bytes(FILES[name][0])
    assert named in refused(capsys, dream.main, ["a red car", *options])
    assert len(list(elsewhere.iterdir())) == 2


@pytest.mark.parametrize(
    "record",
    [
        b"prompt: null",
        b"\xff\xfe\x80",
        b"prompt: a\nparticles: two",
        b"[1, 2]",
        b"",
        b"prompt: a\nx: 1",
        b"{prompt: [a",
    ],
)
def test_a_damaged_record_of_dream_is_one_line(elsewhere, capsys, record):
    (elsewhere / "run").mkdir()
    (elsewhere / "run" / "dream.yaml").write_bytes(record)
    refused(capsys, dream.main, ["--resume", "run"])
    assert (elsewhere / "run" / "dream.yaml").read_bytes() == record
