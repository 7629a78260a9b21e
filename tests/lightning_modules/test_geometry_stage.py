"""The geometry stage through the command: what it starts from, what its losses do, resuming, and bad input."""

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from small_runs import GEOMETRY, ROOT, UNSEEN, assert_same_end, fit_after, resume

from lightning_modules.cli import main, run
from lightning_modules.handover import load_meshes, load_nerfs
from lightning_modules.run.checkpoints import FORMAT
from lightning_modules.run.folder import DREAM, LAST
from scene.iso_surface import field_mask, intersection_over_union, judging_cameras, mesh_mask
from scene.tetrahedra import DMTet

pytestmark = pytest.mark.usefixtures("elsewhere")
CONFIG = str(ROOT / "configs" / "toybox" / "geometry.yaml")


def surfaces(folder):
    state = torch.load(folder / LAST, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if "sdf" in name or "deformation" in name}


def test_every_particle_becomes_the_closed_surface_of_its_nerf(whole, geometry):
    cameras = judging_cameras(2.3, 40)
    for mesh, nerf in zip(load_meshes(geometry, 2), load_nerfs(whole, 2), strict=True):
        assert mesh.is_watertight and mesh.volume() > 0 and mesh.components()[0] == 1
        seen = mesh_mask(mesh, cameras, 32), field_mask(nerf.field, nerf.renderer, cameras, 32)
        assert intersection_over_union(*seen) > 0.9
    assert {f"{name}-particle{i}" for name in ("turntable", "contact") for i in range(2)} <= {
        path.stem for path in geometry.iterdir()
    }
    with Image.open(geometry / "validation" / "particle1-step000004.png") as picture:
        assert picture.size == (2 * 16, 2 * 16), "two views, colour and normal"


def test_a_checkpoint_holds_the_surfaces_and_nothing_of_the_nerf(geometry):
    saved = torch.load(geometry / LAST, weights_only=True)
    names = {name.split(".", 2)[2] for name in saved["state_dict"]}
    assert names == {"sdf", "deformation", "low", "high"} and saved["vsd"]["resolution"] == 12


def test_a_resumed_run_equals_an_uninterrupted_one(whole, geometry, elsewhere):
    part = elsewhere / "part"
    fit_after("geometry", whole, f"--trainer.default_root_dir={part}", "--trainer.val_check_interval=4", steps=2)
    resume(part, "--trainer.max_steps=4")
    assert_same_end(geometry, part)


def test_validation_of_a_run_keeps_its_metrics_and_its_pictures_have_its_step(geometry, elsewhere):
    run_folder = shutil.copytree(geometry, elsewhere / "run")
    before = (run_folder / "metrics.csv").read_text().splitlines()
    for file in (run_folder / "validation").iterdir():
        file.unlink()
    run(["validate", "--config", str(run_folder / "config.yaml"), "--ckpt_path", "last"])
    after = (run_folder / "metrics.csv").read_text().splitlines()
    assert after[:-1] == before, "one more row, and no other change"
    new = dict(zip(after[0].split(","), after[-1].split(","), strict=True))
    assert new["step"] == "4" and 0 < float(new["val/iou1"]) <= 1
    assert sorted(file.name for file in (run_folder / "validation").iterdir()) == [
        f"particle{i}-step000004.png" for i in range(2)
    ]


@pytest.mark.parametrize("guided", ["normal", "colour"])
def test_the_guidance_alone_moves_values_and_deformation(whole, elsewhere, guided):
    none = "--model.losses={consistency: 0, laplacian: 0, opacity: 0}"
    folder = elsewhere / guided
    fit_after("geometry", whole, f"--trainer.default_root_dir={folder}", none, f"--model.guided={guided}",
              "--trainer.callbacks.timesteps.high=0.98", steps=2)  # fmt: skip
    first = DMTet(12)
    for name, value in surfaces(folder).items():
        assert value.shape == getattr(first, name.rsplit(".", 1)[1]).shape and torch.isfinite(value).all()
        if "deformation" in name:
            assert value.abs().max() > 1e-3, "deformations start at zero"


def test_the_opacity_holds_a_surface_that_has_shrunk(whole, elsewhere):
    """Without a guidance's say, a surface of another threshold grows back to the NeRF's outline."""
    folder = elsewhere / "run"
    options = ["--model.losses={consistency: 0, laplacian: 0, opacity: 1000}", "--trainer.callbacks.timesteps.low=0.02",
               "--trainer.callbacks.timesteps.high=0.03", "--model.lr=0.02", "--model.resolution=12"]  # fmt: skip
    command = fit_after("geometry", whole, f"--trainer.default_root_dir={folder}", *options, steps=1)
    stage, batch = command.model, next(iter(command.datamodule.train_dataloader()))
    batch = batch[:2]
    optimizer = torch.optim.Adam(stage.particles[0].parameters(), 0.02)

    def error():
        mesh = stage.extract(0)
        return stage.losses.penalty(mesh, stage.render(0, batch, mesh).coverage, stage.opacity(0, batch))

    fitting = error().item()  # the outline is sharp, the NeRF's opacity is not
    with torch.no_grad():
        stage.particles[0].sdf -= 0.5
    before = error().item()
    for _ in range(30):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert error().item() - fitting < 0.5 * (before - fitting)


def test_backgrounds_are_learned_until_a_step_and_then_plain_in_a_fraction(whole, elsewhere):
    options = ["--model.random_background=0.5", "--model.random_background_from=1", "--model.plain_background=0.25"]
    folder = elsewhere / "run"
    command = fit_after("geometry", whole, f"--trainer.default_root_dir={folder}", *options, UNSEEN, steps=1)
    stage, batch = command.model, next(iter(command.datamodule.train_dataloader()))
    out, learned = stage.render(0, batch), stage.nerfs[0].background
    views = 200
    first = (side[:1].expand(views, -1, -1, -1) for side in (out.coverage, out.directions))
    many = replace(out, **dict(zip(("coverage", "directions"), first, strict=True)))
    expected = learned(out.directions[0])
    before, after = (stage.backgrounds(0, many, step, torch.Generator().manual_seed(0)) for step in (0, 1))
    torch.testing.assert_close(before, expected.expand(views, -1, -1, -1))
    plain = (after == 0.25).all(-1).all(-1).all(-1)  # (views,)
    assert plain.float().mean().item() == pytest.approx(0.5, abs=0.12)
    torch.testing.assert_close(after[~plain], expected.expand(int((~plain).sum()), -1, -1, -1))
    assert not after.requires_grad, "the NeRF's background stays as it is"


def test_the_plain_colours_of_a_view_are_random_by_default(whole, elsewhere):
    command = fit_after("geometry", whole, f"--trainer.default_root_dir={elsewhere / 'run'}", UNSEEN, steps=1)
    out = command.model.render(0, next(iter(command.datamodule.train_dataloader())))
    colours = command.model.backgrounds(0, out, 0, torch.Generator().manual_seed(3))
    expected = torch.rand(len(out.coverage), 1, 1, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(colours, expected)


def test_vertex_consistency_is_the_mean_over_edges(whole, elsewhere):
    none = "--model.losses={consistency: 0, laplacian: 0, opacity: 0, vertex_consistency: 3}"
    command = fit_after("geometry", whole, f"--trainer.default_root_dir={elsewhere / 'run'}", none, UNSEEN, steps=1)
    mesh = command.model.extract(0)
    normals, terms = mesh.vertex_normals(), {}
    for face in mesh.faces.tolist():
        for i, j in zip(face, face[1:] + face[:1], strict=True):
            terms[min(i, j), max(i, j)] = 1 - torch.dot(normals[i], normals[j]).item()
    found = command.model.losses.penalty(mesh, None, None)
    assert found.item() == pytest.approx(3 * sum(terms.values()) / len(terms), rel=1e-3)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", CONFIG, *GEOMETRY, "--trainer.max_steps=2", *arguments])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vsd: ")]
    return line


def changed(whole, folder, change):
    """A copy of the NeRF's run with a changed checkpoint."""
    shutil.copytree(whole, folder)
    saved = torch.load(folder / LAST, weights_only=True)
    change(saved["state_dict"])
    torch.save(saved, folder / LAST)
    return folder


def raise_density(by):
    def change(state):
        for name in state:
            if name.endswith("field.network.2.bias"):
                state[name][0] += by

    return change


@pytest.mark.parametrize(
    ("by", "named"), [(-1000.0, "has no surface, no camera sees it"), (1000.0, "all over the border of its cube")]
)
def test_an_empty_nerf_and_a_full_one_are_named(whole, elsewhere, capsys, by, named):
    nerf = changed(whole, elsewhere / "nerf", raise_density(by))
    line = refused(capsys, f"--model.nerf={nerf}")
    assert line.startswith("vsd: model.nerf: particle 0") and named in line
    assert [path.name for path in elsewhere.iterdir()] == ["nerf"], "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "model.nerf: it is needed, and not given; add --model.nerf=..."),
        (["--model.nerf=nowhere"], "model.nerf: {here}/nowhere does not exist"),
        (["--model.nerf={geometry}"], "model.nerf: {geometry}/checkpoints/last.ckpt is of the stage GeometryStage"),
        (["--model.nerf={whole}", "--model.particles=3"], "has 2 particles, model.particles is 3"),
        (["--model.nerf={whole}", "--model.resolution=2"], "model.resolution: 2"),
        (["--model.nerf={whole}", "--trainer.callbacks=null"], "trainer.callbacks: no guidance"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(whole, geometry, elsewhere, capsys, arguments, named):
    places = {"whole": whole, "geometry": geometry, "here": elsewhere}
    assert named.format(**places) in refused(capsys, *(a.format(**places) for a in arguments))
    assert not list(elsewhere.iterdir())


def test_a_truncated_checkpoint_and_one_of_another_version_are_named(whole, elsewhere, capsys):
    (elsewhere / "short.ckpt").write_bytes((whole / LAST).read_bytes()[:-1000])
    assert "model.nerf: " in (line := refused(capsys, "--model.nerf=short.ckpt")) and "is damaged" in line
    saved = torch.load(whole / LAST, weights_only=True)
    saved["vsd"]["format"] = 1
    torch.save(saved, elsewhere / "old.ckpt")
    assert f"has format 1, this version reads format {FORMAT}" in refused(capsys, "--model.nerf=old.ckpt")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["old.ckpt", "short.ckpt"]


def test_a_surface_that_vanishes_is_answered_and_the_checkpoint_stays(whole, elsewhere, capsys):
    folder = elsewhere / "run"
    fit_after("geometry", whole, f"--trainer.default_root_dir={folder}", steps=2)
    saved = torch.load(folder / LAST, weights_only=True)
    for name in surfaces(folder):
        if "sdf" in name:
            saved["state_dict"][name].fill_(-1.0)
    torch.save(saved, folder / LAST)
    before = (folder / LAST).read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(folder / "config.yaml"), "--ckpt_path=last", "--trainer.max_steps=4"])
    assert ended.value.code == 2 and "nothing is left of the surface" in capsys.readouterr().err
    assert (folder / LAST).read_bytes() == before


def test_a_folder_of_dream_names_its_stage(whole, geometry, elsewhere):
    (elsewhere / DREAM).touch()
    shutil.copytree(whole, elsewhere / "nerf")
    assert len(load_nerfs(elsewhere, 2)) == 2
