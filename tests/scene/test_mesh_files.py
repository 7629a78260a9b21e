import json
import struct

import numpy as np
import pytest
import torch
import trimesh

from scene import mesh_files
from scene.export import Placement, to_file_axes
from scene.mesh import MeshError
from scene.mesh_files import read_mesh

SCALE, PLACE = 170.0, np.array([1000.0, -40.0, 7.0])


@pytest.fixture
def part():
    """A mesh without any symmetry, closed, far from the origin."""
    one = trimesh.creation.icosphere(2)
    one.apply_transform(np.diag([0.4, 0.7, 0.5, 1.0]))
    two = trimesh.creation.box((0.2, 0.3, 0.9))
    two.apply_translation([0.9, 0.1, 0.2])
    both = trimesh.util.concatenate([one, two])
    both.apply_scale(SCALE)
    both.apply_translation(PLACE)
    return both


def glb(path, tree, binary=b""):
    text = json.dumps({"asset": {"version": "2.0"}, **tree}).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    body += struct.pack("<I4s", len(binary), b"BIN\0") + binary if binary else b""
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    return path


@pytest.mark.parametrize("ending", ["glb", "obj", "ply", "stl"])
@pytest.mark.parametrize("up", ["y", "z"])
def test_every_format_is_read_moved_and_restored(part, tmp_path, ending, up):
    part.export(tmp_path / f"part.{ending}")
    given = read_mesh(tmp_path / f"part.{ending}", 0.75, up)
    vertices = given.mesh.vertices.double().numpy()
    assert len(vertices) == 162 + 8 and len(given.mesh.faces) == 320 + 12, "corners at one place are one vertex"
    assert given.mesh.is_watertight and given.mesh.volume() > 0 and given.mesh.components()[0] == 2
    assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(0.75, abs=1e-6)
    np.testing.assert_allclose(vertices.max(0), -vertices.min(0), atol=1e-6)
    back = vertices @ given.to_file[:3, :3].numpy().T + given.to_file[:3, 3].numpy()
    np.testing.assert_allclose(np.unique(back.round(2), axis=0), np.unique(part.vertices.round(2), axis=0), atol=0.011)
    assert given.to_file[:3, :3].det() > 0, "a rotation and a scale, no mirror"


def test_the_world_axes_of_a_file_are_those_of_its_convention():
    """y up: the front +z becomes world x, +x world y. z up: the front -y becomes world x, +x world y."""
    for up, front, left, top in (("y", [0, 0, 1], [1, 0, 0], [0, 1, 0]), ("z", [0, -1, 0], [1, 0, 0], [0, 0, 1])):
        assert (mesh_files.AXES[up] @ np.eye(3)).T.tolist() == [front, left, top]
    np.testing.assert_array_equal(mesh_files.AXES["y"].T, to_file_axes(np.eye(3)))
    np.testing.assert_array_equal(Placement().to_file[:3, :3], mesh_files.AXES["y"])
    matrix = np.eye(4)
    matrix[:3, :3] = mesh_files.AXES["z"]
    assert Placement(matrix, "z").to_glb.tolist() == Placement().to_file.tolist(), (
        "a GLB file is y-up whatever was read"
    )


def test_parts_are_where_the_scene_has_them_and_a_mirror_does_not_turn_them_inside_out(tmp_path):
    box = trimesh.creation.box()
    scene = trimesh.Scene()
    scene.add_geometry(box, transform=np.diag([-1.0, 1, 1, 1]) + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3))
    scene.add_geometry(box)
    scene.export(tmp_path / "two.glb")
    given = read_mesh(tmp_path / "two.glb", 1.0)
    assert given.mesh.components()[0] == 2 and given.mesh.volume() > 0
    size = given.mesh.vertices.amax(0) - given.mesh.vertices.amin(0)
    np.testing.assert_allclose(size / size[0], [1, 4, 1], atol=1e-5)


def test_holes_and_sheets_are_read(tmp_path):
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]], [[0, 1, 2]], process=False)
    sheet.export(tmp_path / "sheet.ply")
    given = read_mesh(tmp_path / "sheet.ply")
    assert not given.mesh.is_watertight and len(given.mesh.vertices) == 3, "unused vertices do not count"


@pytest.mark.parametrize("ending", ["glb", "obj"])
def test_texture_coordinates_are_read(tmp_path, ending):
    box = trimesh.creation.box()
    uv = np.random.default_rng(0).random((8, 2))
    material = trimesh.visual.material.PBRMaterial()
    textured = trimesh.Trimesh(box.vertices, box.faces, process=False)
    textured.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    textured.export(tmp_path / f"box.{ending}")
    given = read_mesh(tmp_path / f"box.{ending}")
    assert torch.equal(given.source[given.corners], given.mesh.faces)
    place = given.mesh.vertices @ given.to_file[:3, :3].float().T + given.to_file[:3, 3].float()
    for corner, coordinates in zip(place[given.source], given.uv, strict=True):
        nearest = np.linalg.norm(box.vertices - corner.numpy(), axis=1).argmin()
        np.testing.assert_allclose(coordinates, uv[nearest], atol=1e-6)


def test_a_file_with_one_part_without_coordinates_has_none(tmp_path):
    box = trimesh.creation.box()
    plain = trimesh.creation.icosphere(1)
    box.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), material=trimesh.visual.material.PBRMaterial())
    trimesh.Scene([box, plain]).export(tmp_path / "mixed.glb")
    assert read_mesh(tmp_path / "mixed.glb").uv is None


def write_bad(folder, how):
    """A bad mesh file; its path."""
    path = folder / "bad.glb"
    if how == "missing":
        return path
    if how == "ending":
        path = folder / "bad.txt"
        path.write_text("no mesh")
    elif how == "text":
        path.write_text("no mesh at all")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        trimesh.creation.icosphere(3).export(path)
        path.write_bytes(path.read_bytes()[:-300])
    elif how == "no faces":
        path = folder / "bad.obj"
        path.write_text("v 0 0 0\nv 1 0 0\n")
    elif how == "nan":
        path = folder / "bad.obj"
        path.write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    elif how == "flat":
        path = folder / "bad.obj"
        path.write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    elif how == "point":
        path = folder / "bad.obj"
        path.write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    elif how == "stl":
        path = folder / "bad.stl"
        path.write_bytes(b"\0" * 80 + struct.pack("<I", 10**9))
    elif how == "ply":
        path = folder / "bad.ply"
        path.write_bytes(
            b"ply\nformat binary_little_endian 1.0\nelement vertex 999999999\nproperty float x\nend_header\n"
        )
    elif how == "outside":
        glb(path, {"buffers": [{"byteLength": 4, "uri": "../../secret.bin"}]})
    elif how == "quoted":
        glb(path, {"images": [{"uri": "%2e%2e/secret.png"}]})
    elif how == "remote":
        glb(path, {"images": [{"uri": "https://example.com/a.png"}]})
    elif how == "library":
        path = folder / "bad.obj"
        path.write_text("mtllib /etc/passwd\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    elif how == "map":
        path = folder / "bad.obj"
        path.write_text("mtllib bad.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
        (folder / "bad.mtl").write_text("newmtl m\nmap_Kd -s 1 1 1 ../secret.png\n")
    elif how == "draco":
        glb(path, {"extensionsRequired": ["KHR_draco_mesh_compression"]})
    elif how == "huge table":
        glb(path, {"accessors": [{"count": 10**10, "componentType": 5126, "type": "VEC3"}]})
    elif how == "huge file":
        with open(path, "wb") as file:
            file.truncate(600 * 2**20)
    return path


BAD = {
    "missing": "does not exist",
    "ending": "bad.txt is no .glb, .obj, .ply or .stl file",
    "text": "is no GLB file",
    "empty": "is no GLB file",
    "cut": "is damaged or no mesh",
    "no faces": "has no faces",
    "nan": "has vertices that are not finite",
    "flat": "has no face with an area",
    "point": "has a size of 0",
    "stl": "has no faces",
    "ply": "is damaged or no mesh",
    "outside": "refers to '../../secret.bin', outside of its folder",
    "quoted": "refers to '../secret.png', outside of its folder",
    "remote": "refers to 'https://example.com/a.png', outside of its folder",
    "library": "refers to '/etc/passwd', outside of its folder",
    "map": "refers to '../secret.png', outside of its folder",
    "draco": "is compressed by KHR_draco_mesh_compression",
    "huge table": "has 10000000000 values in one table",
    "huge file": "has 600 MiB",
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_mesh_is_one_line(tmp_path, how):
    path = write_bad(tmp_path, how)
    with pytest.raises(MeshError) as caught:
        read_mesh(path)
    assert str(caught.value).startswith(str(path)) and BAD[how] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_faces_are_refused(tmp_path, monkeypatch):
    trimesh.creation.icosphere(2).export(tmp_path / "ball.ply")
    monkeypatch.setattr(mesh_files, "LARGEST_MESH", 300)
    with pytest.raises(MeshError, match="has 320 faces, the most are 300"):
        read_mesh(tmp_path / "ball.ply")
