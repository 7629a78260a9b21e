"""A signal while trimesh, which catches every exception, writes or reads a file."""

import signal

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from scene.export import write_glb, write_obj
from scene.mesh_files import read_mesh
from scene.texture import bake, unwrap


@pytest.fixture(scope="module")
def ball():
    sphere = trimesh.creation.icosphere(subdivisions=1)
    vertices = torch.tensor(np.array(sphere.vertices), dtype=torch.float32)
    atlas = unwrap(vertices, torch.tensor(np.array(sphere.faces)), size=64)
    return vertices, atlas, bake(vertices, atlas, lambda points: points.clamp(0, 1))


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests' process ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(monkeypatch, owner, name):
    """Has Ctrl-C come in a function, once."""
    plain, left = getattr(owner, name), [True]

    def coming(*args, **options):
        if left:
            left.clear()
            signal.raise_signal(signal.SIGINT)
        return plain(*args, **options)

    monkeypatch.setattr(owner, name, coming)
    return left


@pytest.mark.parametrize(("write", "ending"), [(write_obj, "obj"), (write_glb, "glb")])
def test_the_files_are_whole_and_the_signal_is_not_lost(ball, tmp_path, monkeypatch, write, ending):
    for name in ("alone", "hit"):
        (tmp_path / name).mkdir()
    write(tmp_path / "alone" / f"ball.{ending}", *ball)
    left = interrupted(monkeypatch, Image.Image, "save")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "hit" / f"ball.{ending}", *ball)
    assert not left, "it came"
    alone, hit = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("alone", "hit"))
    assert alone == hit


def test_a_file_that_is_read_is_read_whole(ball, tmp_path, monkeypatch):
    path = write_glb(tmp_path / "ball.glb", *ball)
    left = interrupted(monkeypatch, Image, "open")
    with pytest.raises(KeyboardInterrupt):
        read_mesh(path)
    assert not left, "it came"
