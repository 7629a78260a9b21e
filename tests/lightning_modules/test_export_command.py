"""`vsd export`: what other programs read of its files, for a run of every stage."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from small_runs import fit_after

from lightning_modules.export import main, view_cameras
from lightning_modules.run.folder import CONFIG, DREAM
from scene.decimation import decimate
from scene.mesh import Mesh, MeshError

pytestmark = pytest.mark.usefixtures("elsewhere")
FEWER = pytest.mark.skipif(importlib.util.find_spec("fast_simplification") is None, reason="needs fast-simplification")


@pytest.fixture(scope="module")
def dreamt(whole, geometry, tmp_path_factory):
    """A folder of `dream` with its three stages."""
    folder = tmp_path_factory.mktemp("dreamt")
    shutil.copytree(whole, folder / "nerf")
    shutil.copytree(geometry, folder / "geometry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vsd"])
        options = f"--model.geometry={folder / 'geometry'}", f"--trainer.default_root_dir={folder / 'texture'}"
        fit_after("texture", folder / "nerf", *options, steps=1)
    (folder / DREAM).write_text("prompt: a red mushroom\n")
    return folder


def exported(capsys, *arguments):
    """The files that the command prints."""
    main([str(word) for word in arguments])
    return capsys.readouterr().out.splitlines()


def test_a_dream_is_exported_with_its_name_prompt_and_normals(dreamt, elsewhere, capsys):
    assert exported(capsys, dreamt, "--out", "out", "--texture", 128) == [f"out/mesh-particle{i}.glb" for i in range(2)]
    scene = trimesh.load_scene("out/mesh-particle1.glb", process=False)
    ((name, mesh),) = scene.geometry.items()
    kept = trimesh.load_scene(dreamt / "texture" / "mesh-particle1.glb").geometry.popitem()[1]
    assert name == "a red mushroom 1" and len(mesh.faces) == len(kept.faces)
    assert mesh.metadata["prompt"] == "a red mushroom" and mesh.metadata["particle"] == 1
    assert mesh.visual.material.baseColorTexture.size == (128, 128)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1, atol=1e-5)
    data = (elsewhere / "out" / "mesh-particle1.glb").read_bytes()
    asset = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])["asset"]
    assert asset["generator"].startswith("prolific")
    assert asset["extras"]["prompt"] == "a red mushroom" and asset["extras"]["unit"] == "metre"


def test_an_obj_is_exported_with_its_texture(dreamt, elsewhere, capsys):
    exported(capsys, dreamt, "--out", "out", "--format", "obj", "--texture", 128)
    assert {path.name for path in (elsewhere / "out").glob("*0.*")} == {
        f"mesh-particle0.{e}" for e in ("obj", "mtl", "png")
    }
    assert '# prompt: "a red mushroom"' in (elsewhere / "out" / "mesh-particle0.obj").read_text()


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture"])
def test_a_ply_of_every_stage_has_vertex_colours(dreamt, elsewhere, capsys, stage):
    (file, _) = exported(capsys, dreamt / stage, "--format", "ply", "--out", stage, "--resolution", 16)
    mesh = trimesh.load(file, process=False)
    assert len(mesh.faces) > 50 and mesh.visual.kind == "vertex"
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3]
    assert len(colours) == len(mesh.vertices) and colours.std(0).max() > 0
    assert b'comment prompt: "a red mushroom"' in (elsewhere / file).read_bytes()[:500]


@FEWER
def test_a_mesh_is_decimated_to_a_budget(dreamt, elsewhere, capsys):
    (file, _) = exported(capsys, dreamt, "--faces", 100, "--texture", 128, "--out", "few")
    few, all_of_it = (trimesh.load(path, force="mesh") for path in (file, dreamt / "texture" / "mesh-particle0.glb"))
    assert 50 < len(few.faces) <= 100 < len(all_of_it.faces)
    np.testing.assert_allclose(few.bounds, all_of_it.bounds, atol=0.15)


@FEWER
def test_the_mesh_of_a_nerf_has_a_budget_of_its_own(dreamt, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr("lightning_modules.export.FACES", 200)
    options = "--format", "ply", "--resolution", 24
    for stage, most in (("nerf", 200), ("geometry", 10**9)):
        (file, _) = exported(capsys, dreamt / stage, *options, "--out", stage)
        assert 100 < len(trimesh.load(file).faces) <= most
    assert len(trimesh.load(file).faces) > 200
    (file, _) = exported(capsys, dreamt / "nerf", *options, "--faces", 300, "--out", "more")
    assert 200 < len(trimesh.load(file).faces) <= 300


@FEWER
def test_decimation_keeps_the_shape():
    ball = trimesh.creation.icosphere(4)
    mesh = Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces))
    few = decimate(mesh, 500)
    assert len(few.faces) <= 500 and few.is_watertight and len(few.vertices) == few.faces.max() + 1
    assert (few.vertices.norm(dim=1) - 1).abs().max() < 0.05
    assert float(few.volume()) == pytest.approx(float(mesh.volume()), rel=0.02)
    assert decimate(mesh, 10_000) is mesh


def test_decimation_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fast_simplification", None)
    mesh = Mesh(torch.rand(9, 3), torch.arange(9).view(3, 3))
    with pytest.raises(MeshError, match="pip install fast-simplification"):
        decimate(mesh, 2)


@pytest.mark.parametrize("stage", ["nerf", "texture"])
def test_pictures_and_cameras_fit_together(dreamt, elsewhere, capsys, stage):
    """Every vertex is projected by the file's cameras: most fall on opaque pixels."""
    options = ["--format", "ply", "--views", 4, "--size", 64, "--out", stage, "--resolution", 24]
    exported(capsys, dreamt / stage, *options)
    folder = elsewhere / stage / "views-particle0"
    tree = json.loads((folder / "transforms.json").read_text())
    mesh = trimesh.load(elsewhere / stage / "mesh-particle0.ply", process=False)
    world = np.asarray(mesh.vertices)[:, [2, 0, 1]]  # of the files' axes
    assert len(tree["frames"]) == 4 and (tree["w"], tree["h"], tree["cx"]) == (64, 64, 32)
    for frame in tree["frames"]:
        picture = np.asarray(Image.open(folder / frame["file_path"]))
        assert picture.shape == (64, 64, 4)
        matrix = np.linalg.inv(frame["transform_matrix"])  # OpenGL: x right, y up, looking along -z
        x, y, z = (world @ matrix[:3, :3].T + matrix[:3, 3]).T
        column = (tree["cx"] - tree["fl_x"] * x / z).astype(int)
        row = (tree["cy"] + tree["fl_y"] * y / z).astype(int)
        seen = (np.stack([row, column]) >= 0).all(0) & (np.stack([row, column]) < 64).all(0)
        opaque = picture[..., 3] > 100
        assert opaque[row[seen], column[seen]].mean() > 0.85
        assert opaque.mean() < 0.9


def test_cameras_are_spread_over_all_sides():
    cameras = view_cameras(16, 2.3, 40.0, 8)
    assert cameras.elevation.min() > -20 and cameras.elevation.max() < 70
    assert len(set((cameras.azimuth // 90).tolist())) == 4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere: no run folder, config.yaml is missing"),
        (["run", "--faces", "2"], "--faces: 2 is not in [4,"),
        (["run", "--format", "fbx"], "--format: invalid choice: 'fbx'"),
        (["run", "--views", "-1"], "--views: -1"),
        (["run"], "damaged"),
        ([], "RUN"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(elsewhere, capsys, arguments, named):
    (elsewhere / "run").mkdir()
    (elsewhere / "run" / CONFIG).write_text("model: 3")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vsd export: ") and named in line
    assert sorted(path.name for path in elsewhere.rglob("*")) == [CONFIG, "run"]
