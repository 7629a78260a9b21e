"""The texture stage through the command: what is inherited, what stays, what is exported, and bad input."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from small_runs import ROOT, TEXTURE, assert_same_end, fit_after, resume

from common.errors import InputError
from lightning_modules.cli import main
from lightning_modules.handover import load_meshes, load_nerfs
from lightning_modules.run.folder import LAST
from lightning_modules.texture import TextureStage
from scene.export import to_file_axes
from scene.mesh import Mesh, MeshError

pytestmark = pytest.mark.usefixtures("elsewhere")
CONFIG = str(ROOT / "configs" / "toybox" / "texture.yaml")
ENDS = ("glb", "obj", "mtl", "png")


def fit(whole, geometry, folder, *more, steps=2):
    """A run in `folder`; returns the command."""
    options = [f"--model.geometry={geometry}", f"--trainer.default_root_dir={folder}", "--trainer.val_check_interval=4"]
    return fit_after("texture", whole, *options, *more, steps=steps)


@pytest.fixture(scope="module")
def textured(whole, geometry, tmp_path_factory):
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("texture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vsd"])
        fit(whole, geometry, folder, steps=4)
    return folder


def state(folder):
    return torch.load(folder / LAST, weights_only=True)["state_dict"]


def test_surfaces_stay_and_colours_move_from_the_nerfs(whole, geometry, textured):
    after = state(textured)
    for i, (mesh, nerf) in enumerate(zip(load_meshes(geometry, 2), load_nerfs(whole, 2), strict=True)):
        assert torch.equal(after[f"particles.{i}.vertices"], mesh.vertices)
        assert torch.equal(after[f"particles.{i}.faces"], mesh.faces)
        for name, value in nerf.field.state_dict().items():
            moved = (after[f"particles.{i}.field.{name}"] - value).abs().max()
            assert moved < 0.1, f"{name} starts where the NeRF left it"
        assert not torch.equal(after[f"particles.{i}.field.network.2.weight"], nerf.field.network[2].weight)


def test_a_new_start_forgets_the_nerfs_colours(whole, geometry, elsewhere):
    fit(whole, geometry, elsewhere / "new", "--model.inherit=false", "--model.seed=9", steps=1)
    weight = load_nerfs(whole, 2)[0].field.network[0].weight
    assert (state(elsewhere / "new")["particles.0.field.network.0.weight"] - weight).abs().max() > 0.1


def test_a_resumed_run_equals_an_uninterrupted_one(whole, geometry, textured, elsewhere):
    fit(whole, geometry, elsewhere / "part", steps=2)
    resume(elsewhere / "part", "--trainer.max_steps=4")
    assert_same_end(textured, elsewhere / "part")


def test_every_particle_is_exported(geometry, textured):
    for i, mesh in enumerate(load_meshes(geometry, 2)):
        assert all((textured / f"mesh-particle{i}.{end}").is_file() for end in ENDS)
        read = trimesh.load(textured / f"mesh-particle{i}.glb", force="mesh")
        assert len(read.faces) == len(mesh.faces)
        low, high = (to_file_axes(f(mesh.vertices.numpy(), 0)) for f in (np.min, np.max))
        assert np.allclose(read.bounds, [low, high], atol=1e-5)


def test_the_export_shows_the_stages_colours(whole, geometry, elsewhere):
    """The texture at every corner of a face is the field's colour there."""
    command = fit(whole, geometry, elsewhere / "run", "--model.texture_size=512")
    particle = command.model.particles[0]
    read = trimesh.load(elsewhere / "run" / "mesh-particle0.glb", force="mesh")
    middle = read.triangles_center[:, [2, 0, 1]]  # back in world axes
    uv = read.visual.uv[read.faces].mean(1)
    image = np.asarray(read.visual.material.baseColorTexture.convert("RGB"), dtype=float) / 255
    size = len(image)
    row, column = ((1 - uv[:, 1]) * size).astype(int), (uv[:, 0] * size).astype(int)
    wanted = particle.colour(torch.tensor(middle, dtype=torch.float32)).detach().numpy()
    assert np.abs(image[row.clip(0, size - 1), column.clip(0, size - 1)] - wanted).mean() < 0.02


def test_without_a_geometry_the_nerfs_own_surface_is_textured(whole, elsewhere):
    fit_after("texture", whole, "--model.resolution=10", f"--trainer.default_root_dir={elsewhere / 'run'}", steps=1)
    read = trimesh.load(elsewhere / "run" / "mesh-particle1.glb", force="mesh")
    assert len(read.faces) > 100


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", CONFIG, *TEXTURE, "--trainer.max_steps=1", *arguments])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    return line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.nerf={whole}", "--model.geometry=nowhere"], "model.geometry: {here}/nowhere does not exist"),
        (
            ["--model.nerf={whole}", "--model.geometry={whole}"],
            "NerfStage, and GeometryStage is needed",
        ),
        (["--model.nerf={whole}", "--model.random_background=2"], "model.random_background: 2 is not in [0, 1]"),
        (["--model.nerf={whole}", "--model.geometry={geometry}", "--model.lr_decay=0"], "model.lr_decay: 0"),
        (["--model.nerf={whole}", "--model.geometry={geometry}", "--model.texture_size=8"], "model.texture_size: 8"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(whole, geometry, elsewhere, capsys, arguments, named):
    places = {"whole": whole, "geometry": geometry, "here": elsewhere}
    assert named.format(**places) in refused(capsys, *(a.format(**places) for a in arguments))
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("size", [0.0, 1e-5])
def test_a_surface_that_no_camera_sees_is_named(whole, geometry, elsewhere, capsys, monkeypatch, size):
    def tiny(run, count):
        return [Mesh(size * mesh.vertices, mesh.faces) for mesh in load_meshes(run, count)]

    monkeypatch.setattr("lightning_modules.texture.load_meshes", tiny)
    line = refused(capsys, f"--model.nerf={whole}", f"--model.geometry={geometry}")
    assert "model.geometry: no camera sees a face of particle 0" in line
    assert not list(elsewhere.iterdir())


def test_a_defect_of_the_program_is_no_input_error():
    def broken(size):
        raise ValueError("a wrong padding")

    stage = TextureStage(nerf="run")
    stage.particles = [SimpleNamespace(atlas=broken)]
    with pytest.raises(ValueError, match="^a wrong padding$"):
        stage.export(0)


def test_an_export_that_cannot_be_written_is_named_and_the_checkpoint_kept(whole, geometry, elsewhere, capsys):
    folder = elsewhere / "run"
    (folder / "mesh-particle0.glb").mkdir(parents=True)
    line = refused(
        capsys, f"--model.nerf={whole}", f"--model.geometry={geometry}", f"--trainer.default_root_dir={folder}"
    )
    assert "mesh-particle0.glb" in line and "cannot be written" in line
    assert (folder / LAST).is_file()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MeshError("9 charts do not fit"), InputError),
        (OSError("no space"), InputError),
        (ValueError("bug"), ValueError),
    ],
)
def test_a_defect_in_the_export_is_not_taken_for_bad_input(error, raised):
    def fail(*_):
        raise error

    stage = SimpleNamespace(particles=[SimpleNamespace(atlas=fail)], texture_size=64)
    with pytest.raises(raised, match=str(error)) as caught:
        TextureStage.export(stage, 0)
    assert isinstance(caught.value, InputError) == (raised is InputError)
