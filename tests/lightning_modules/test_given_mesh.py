"""The texture stage on a mesh of a file, through the command."""

import numpy as np
import pytest
import torch
import trimesh
import yaml
from small_runs import FEW_VIEWS, ROOT, TEXTURE, assert_same_end, resume

from lightning_modules import dream
from lightning_modules.cli import main, run
from lightning_modules.run.folder import CONFIG, DREAM, LAST

pytestmark = pytest.mark.usefixtures("elsewhere")
FILES = {name: str(ROOT / "configs" / "toybox" / f"{name}.yaml") for name in ("mesh", "texture")}
ENDS = ("glb", "obj", "mtl", "png")


@pytest.fixture
def ball(elsewhere):
    """A ball and a box, open, far from the origin and large."""
    one, two = trimesh.creation.icosphere(1), trimesh.creation.box((0.3, 0.4, 2.5))
    both = trimesh.util.concatenate([one, trimesh.Trimesh(two.vertices, two.faces[:-2], process=False)])
    both.apply_scale(50.0)
    both.apply_translation([300, 20, -70])
    both.export(elsewhere / "ball.stl")
    return both


def fit(mesh, folder, *more, config="mesh", steps=2):
    options = [f"--model.mesh={mesh}", f"--trainer.default_root_dir={folder}", f"--trainer.max_steps={steps}"]
    return run(["fit", "--config", FILES[config], *TEXTURE, *options, *more])


@pytest.mark.parametrize(("config", "up"), [("mesh", "y"), ("texture", "z")])
def test_a_mesh_is_textured_and_lies_where_it_was(ball, elsewhere, capsys, config, up):
    command = fit("ball.stl", "run", f"--model.mesh_up={up}", config=config)
    told = capsys.readouterr().out
    assert "mesh: 90 faces, bodies: 2, open; it has no texture coordinates, they are made" in told
    assert ("warning: timesteps.high: 0.5 is too low" in told) == (config == "texture")
    for i in range(2):
        assert all((elsewhere / "run" / f"mesh-particle{i}.{end}").is_file() for end in ENDS)
    obj = trimesh.load(elsewhere / "run" / "mesh-particle1.obj", force="mesh")
    np.testing.assert_allclose(obj.bounds, ball.bounds, atol=1e-3)
    assert len(obj.faces) == 90
    glb = trimesh.load(elsewhere / "run" / "mesh-particle1.glb", force="mesh")
    turned = ball.vertices if up == "y" else np.stack([*ball.vertices.T[[0, 2]], -ball.vertices[:, 1]], -1)
    np.testing.assert_allclose(glb.bounds, [turned.min(0), turned.max(0)], atol=1e-3)
    one, two = (p.field.network[0].weight for p in command.model.particles)
    assert not torch.equal(one, two), "every particle has colours of its own"


def test_texture_coordinates_are_kept_or_made_anew(elsewhere, capsys):
    ball = trimesh.creation.icosphere(2)
    from scene.texture import unwrap

    atlas = unwrap(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces), 256)
    source, uv = atlas.source.numpy(), atlas.uv.numpy()
    for name, given in (("own", uv), ("halves", np.minimum(uv, 1 - uv))):
        textured = trimesh.Trimesh(ball.vertices[source], atlas.faces.numpy(), process=False)
        textured.visual = trimesh.visual.TextureVisuals(uv=given, material=trimesh.visual.material.PBRMaterial())
        textured.export(elsewhere / f"{name}.glb")
    for name, words, more in (
        ("own", "it keeps its coordinates", []),
        ("halves", "its texture coordinates overlap; they are made anew", []),
        ("own", "its texture coordinates are made anew", ["--model.keep_uv=false"]),
    ):
        folder = elsewhere / f"run-{name}{len(more)}"
        fit(f"{name}.glb", folder, *more, steps=1)
        assert words in capsys.readouterr().out
        found = trimesh.load_scene(folder / "mesh-particle0.glb", process=False).geometry.popitem()[1].visual.uv
        same = found.shape == uv.shape and np.allclose(found, uv, atol=1e-6)
        assert same == words.startswith("it keeps")


def test_wandb_gets_the_meshes(ball, elsewhere, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit("ball.stl", "run", f"--config={ROOT / 'configs' / 'loggers' / 'wandb.yaml'}", steps=1)
    (folder,) = (elsewhere / "run" / "wandb").glob("offline-run-*")
    meshes = sorted((folder / "files" / "media" / "object3D" / "mesh").glob("particle*.glb"))
    assert [path.name[:9] for path in meshes] == ["particle0", "particle1"]
    assert meshes[1].read_bytes() == (elsewhere / "run" / "mesh-particle1.glb").read_bytes()


def test_a_run_resumes_without_the_file_and_to_the_bit(ball, elsewhere):
    fit("ball.stl", "whole", steps=4)
    fit("ball.stl", "part", steps=2)
    (elsewhere / "ball.stl").unlink()
    resume(elsewhere / "part", "--trainer.max_steps=4")
    assert_same_end(elsewhere / "whole", elsewhere / "part")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", FILES["mesh"], *TEXTURE, "--trainer.max_steps=1", *arguments])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    return line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.mesh=nowhere.glb"], "model.mesh: nowhere.glb does not exist"),
        (["--model.mesh=empty.glb"], "model.mesh: empty.glb is no GLB file"),
        (["--model.mesh=ball.stl", "--model.mesh_radius=0"], "model.mesh_radius: 0"),
        (["--model.mesh=ball.stl", "--model.mesh_up=x"], "mesh_up"),
        (["--model.mesh=ball.stl", "--model.nerf=run"], "model.mesh: it takes the place of model.nerf"),
        (["--model.mesh=ball.stl", "--model.mesh_radius=1e-5"], "model.mesh: no camera sees a face of particle 0"),
        ([], "model.nerf: it is missing; name a run of the NeRF stage, or a mesh with model.mesh"),
    ],
)
def test_a_bad_mesh_is_one_line_and_leaves_nothing(ball, elsewhere, capsys, arguments, named):
    (elsewhere / "empty.glb").touch()
    before = sorted(elsewhere.rglob("*"))
    assert named in refused(capsys, *arguments)
    assert sorted(elsewhere.rglob("*")) == before


def test_a_bad_mesh_is_told_before_the_prior_is_loaded(elsewhere, capsys):
    line = refused(capsys, "--model.mesh=nowhere.glb", "--trainer.callbacks.model=/nowhere/prior")
    assert "nowhere.glb does not exist" in line


def test_dream_textures_a_mesh_alone(ball, elsewhere):
    more = {"texture": [option for option in FEW_VIEWS if "particles" not in option] + ["--trainer.max_steps=1"]}
    with pytest.raises(SystemExit) as end:
        dream.main(["a red mushroom", "--mesh", "ball.stl", "--out", "out"], more)
    assert end.value.code == 0
    wish = yaml.safe_load((elsewhere / "out" / DREAM).read_text())
    assert wish["mesh"] == str(elsewhere / "ball.stl")
    assert [path.name for path in (elsewhere / "out").iterdir() if path.is_dir()] == ["texture"]
    record = yaml.safe_load((elsewhere / "out" / "texture" / CONFIG).read_text())
    assert record["model"]["init_args"]["mesh"] == str(elsewhere / "ball.stl")
    assert (elsewhere / "out" / "texture" / LAST).is_file()
    with pytest.raises(SystemExit) as end:
        dream.main(["--resume", "out"])
    assert end.value.code == 0


def test_dream_names_a_preset_without_a_file_for_meshes(elsewhere, capsys):
    (elsewhere / "ball.stl").write_text("solid ball")
    with pytest.raises(SystemExit) as end:
        dream.main(["a duck", "--mesh", "ball.stl", "--preset", "paper"])
    assert end.value.code == 2 and [path.name for path in elsewhere.iterdir()] == ["ball.stl"]
    assert "--mesh: the preset 'paper' textures no given mesh" in capsys.readouterr().err


def test_dream_with_a_missing_mesh_leaves_nothing(elsewhere, capsys):
    with pytest.raises(SystemExit) as end:
        dream.main(["a duck", "--mesh", "nowhere.glb", "--out", "out"])
    assert end.value.code == 2 and not list(elsewhere.iterdir())
    assert "dream: --mesh: nowhere.glb is no file" in capsys.readouterr().err


def test_dream_with_a_broken_mesh_leaves_nothing(elsewhere, capfd):
    (elsewhere / "broken.glb").write_text("no mesh")
    with pytest.raises(SystemExit) as end:
        dream.main(["a duck", "--mesh", "broken.glb", "--out", "out"])
    assert end.value.code == 2 and [path.name for path in elsewhere.iterdir()] == ["broken.glb"]
    assert f"vsd: model.mesh: {elsewhere}/broken.glb" in capfd.readouterr().err
