import io
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from scene.export import About, to_file_axes, write_glb, write_obj, write_ply
from scene.mesh import MeshError
from scene.texture import Atlas, bake, unwrap

VALIDATE = """
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[1]));
require("gltf-validator").validateBytes(bytes).then((report) => console.log(JSON.stringify(report.issues)));
"""


def field(points):
    """Red grows towards the front, green upwards, blue in waves."""
    return torch.stack([ramp(points[:, 0]), ramp(points[:, 2]), 0.5 + 0.5 * torch.sin(3 * points[:, 1])], -1)


def ramp(coordinate):
    return ((coordinate + 1) / 2).clamp(0, 1)


@pytest.fixture(scope="module")
def egg():
    """A closed mesh, longest along x, then z, then y, off the origin; its atlas and its baked colours."""
    sphere = trimesh.creation.icosphere(subdivisions=3)
    vertices = torch.tensor(np.array(sphere.vertices), dtype=torch.float32) * torch.tensor([0.8, 0.4, 0.6])
    vertices = vertices + torch.tensor([0.1, 0.0, -0.2])
    atlas = unwrap(vertices, torch.tensor(np.array(sphere.faces)), size=256)
    return vertices, atlas, bake(vertices, atlas, field)


@pytest.fixture
def glb(egg, tmp_path):
    return write_glb(tmp_path / "egg.glb", *egg)


def read(path) -> trimesh.Trimesh:
    (mesh,) = trimesh.load_scene(path, process=False).geometry.values()
    return mesh


def content(path: Path) -> tuple[dict, bytes]:
    """The JSON of a GLB file and its binary part."""
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def picture(path: Path) -> Image.Image:
    """The image inside a GLB file."""
    tree, binary = content(path)
    view = tree["bufferViews"][tree["images"][0]["bufferView"]]
    return Image.open(io.BytesIO(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]))


def test_the_axes_are_gltfs_by_a_rotation():
    """World front +x becomes +z, left +y becomes +x, up +z becomes +y."""
    turned = to_file_axes(np.eye(3))
    assert turned.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert np.linalg.det(turned) == 1


def test_a_glb_file_holds_the_mesh_as_it_was(egg, glb):
    vertices, atlas, image = egg
    found = read(glb)
    np.testing.assert_array_equal(found.vertices, to_file_axes(vertices[atlas.source].numpy()))
    np.testing.assert_array_equal(found.faces, atlas.faces.numpy())
    np.testing.assert_allclose(found.visual.uv, atlas.uv.numpy(), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(picture(glb)), (image * 255).round().numpy().astype(np.uint8))
    assert list(glb.parent.iterdir()) == [glb], "a temporary file is left"


def test_size_and_orientation_of_a_glb_file(egg, glb):
    """Metres, y up, the front to +z, faces outwards."""
    found = read(glb)
    np.testing.assert_allclose(found.bounds, [[-0.4, -0.8, -0.7], [0.4, 0.4, 0.9]], atol=1e-6)
    closed = trimesh.Trimesh(found.vertices, found.faces, process=True, merge_tex=True, merge_norm=True)
    assert closed.is_watertight
    assert closed.volume == pytest.approx(4 / 3 * np.pi * 0.8 * 0.4 * 0.6, rel=0.02)


def test_a_matte_single_sided_material(glb):
    tree, _ = content(glb)
    (material,), (mesh,) = tree["materials"], tree["meshes"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 1
    assert material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    assert not material.get("doubleSided", False)
    assert material.get("alphaMode", "OPAQUE") == "OPAQUE"
    assert set(mesh["primitives"][0]["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}


def test_colours_are_written_as_srgb_without_a_transfer_function(egg, tmp_path):
    """What was rgb 0.5 on the diffusion model's screen is 128 of 255 in an image that viewers read as sRGB."""
    vertices, atlas, image = egg
    values = torch.tensor([0.0, 0.5, 1.2])  # clipped, not wrapped around
    found = picture(write_glb(tmp_path / "grey.glb", vertices, atlas, values.expand_as(image)))
    assert found.mode == "RGB" and found.format == "PNG"
    assert np.unique(np.asarray(found).reshape(-1, 3), axis=0).tolist() == [[0, 128, 255]]
    assert not {"gamma", "icc_profile", "srgb", "chromaticity"} & set(found.info)


def test_normals_point_outwards_and_agree_across_seams(egg, glb):
    vertices, atlas, _ = egg
    normals = np.array(read(glb).vertex_normals)
    radii = torch.tensor([0.8, 0.4, 0.6])
    exact = torch.nn.functional.normalize((vertices - torch.tensor([0.1, 0.0, -0.2])) / radii**2, dim=-1)
    np.testing.assert_allclose(normals, to_file_axes(exact[atlas.source].numpy()), atol=0.02)
    order = torch.argsort(atlas.source)
    same = (atlas.source[order][1:] == atlas.source[order][:-1]).numpy()
    assert same.any()
    np.testing.assert_array_equal(normals[order[1:]][same], normals[order[:-1]][same])


@pytest.mark.parametrize("ending", ["glb", "obj"])
def test_the_file_shows_the_colour_field_on_the_surface(egg, tmp_path, ending):
    """Points on the re-imported surface, looked up in its image through its uv: PSNR against the field."""
    write = {"glb": write_glb, "obj": write_obj}[ending]
    write(tmp_path / f"egg.{ending}", *egg)
    found = read(tmp_path / f"egg.{ending}")
    points, face = trimesh.sample.sample_surface(found, 20000, seed=1)
    weights = trimesh.triangles.points_to_barycentric(found.triangles[face], points)
    uv = (found.visual.uv[found.faces[face]] * weights[..., None]).sum(1)
    material = found.visual.material
    image = np.asarray(material.baseColorTexture if ending == "glb" else material.image)
    row = np.clip(((1 - uv[:, 1]) * len(image)).astype(int), 0, len(image) - 1)
    colours = image[row, (uv[:, 0] * len(image)).astype(int), :3] / 255
    world = points[:, [2, 0, 1]]
    error = np.square(colours - field(torch.tensor(world)).numpy()).mean()
    assert -10 * np.log10(error) > 45
    front = points[:, 2] > 0.85
    assert colours[front, 0].min() > 0.92, "the front, where the field is red, is not at +z"


def test_an_obj_file_holds_the_mesh_as_it_was(egg, tmp_path):
    vertices, atlas, image = egg
    files = write_obj(tmp_path / "egg.obj", vertices, atlas, image)
    assert sorted(p.name for p in files) == ["egg.mtl", "egg.obj", "egg.png"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    lines = (tmp_path / "egg.obj").read_text().splitlines()
    for key, expected in (
        ("v", to_file_axes(vertices[atlas.source].numpy())),
        ("vt", atlas.uv.numpy()),
        ("f", np.repeat(atlas.faces.numpy()[..., None] + 1, 3, -1).reshape(-1, 9)),
    ):
        rows = [line.replace("/", " ").split()[1:] for line in lines if line.split(" ")[0] == key]
        np.testing.assert_allclose(np.array(rows, dtype=float), expected, atol=1e-7)
    assert sum(line.startswith("vn ") for line in lines) == len(atlas.uv)
    found = np.asarray(Image.open(tmp_path / "egg.png"))
    np.testing.assert_array_equal(found, (image * 255).round().numpy().astype(np.uint8))


def test_the_material_of_an_obj_file_is_the_texture_alone(egg, tmp_path):
    write_obj(tmp_path / "egg.obj", *egg)
    lines = [line.split() for line in (tmp_path / "egg.mtl").read_text().splitlines()]
    values = {line[0]: line[1:] for line in lines if line}
    assert values["map_Kd"] == ["egg.png"]
    assert [float(v) for v in values["Kd"]] == [1, 1, 1], "a factor would darken the texture"
    assert [float(v) for v in values["Ks"]] == [0, 0, 0]


def test_particles_in_one_folder_keep_their_own_files(egg, tmp_path):
    vertices, atlas, image = egg
    write_obj(tmp_path / "particle 0.obj", vertices, atlas, image)
    write_obj(tmp_path / "particle 1.obj", vertices, atlas, torch.zeros_like(image))
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {f"particle{c}{k}.{e}" for k in (0, 1) for c, e in ((" ", "obj"), ("_", "mtl"), ("_", "png"))}
    first, second = (read(tmp_path / f"particle {k}.obj").visual.material.image for k in (0, 1))
    assert np.asarray(first).max() > 200 and np.asarray(second).max() == 0


def test_faces_without_area_get_unit_normals(egg, tmp_path):
    vertices, atlas, image = egg
    loose = torch.cat([vertices, torch.zeros(3, 3)])
    faces = torch.cat([atlas.source[atlas.faces], torch.tensor([[0, 0, 1]]) + len(vertices)])
    path = write_glb(tmp_path / "loose.glb", loose, unwrap(loose, faces, size=128), image)
    np.testing.assert_allclose(np.linalg.norm(read(path).vertex_normals, axis=1), 1, atol=1e-6)


def test_a_mesh_without_faces_is_refused(egg, tmp_path):
    vertices, atlas, image = egg
    empty = Atlas(atlas.uv, atlas.faces[:0], atlas.source, atlas.size)
    for write, name in ((write_glb, "egg.glb"), (write_obj, "egg.obj")):
        with pytest.raises(MeshError, match="^the mesh has no faces; there is nothing to export$"):
            write(tmp_path / name, vertices, empty, image)
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(egg, tmp_path):
    for write, name, ending in ((write_glb, "egg.obj", "glb"), (write_obj, "egg", "obj")):
        with pytest.raises(ValueError, match=rf"{name}: the name must end in \.{ending}$"):
            write(tmp_path / name, *egg)


def test_an_unwritable_place_is_named_in_one_line(egg, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.glb").mkdir()
    for path in (tmp_path / "file" / "egg.glb", tmp_path / "folder.glb"):
        with pytest.raises(OSError, match="cannot be written") as caught:
            write_glb(path, *egg)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.glb"], "a temporary file is left"


def test_a_failed_write_leaves_the_old_file(egg, glb, monkeypatch):
    before = glb.read_bytes()
    whole = Path.write_bytes

    def full(path, data):
        whole(path, data[:1000])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="egg.glb: cannot be written .No space left on device"):
        write_glb(glb, *egg)
    assert glb.read_bytes() == before and list(glb.parent.iterdir()) == [glb]


def test_folders_are_made(egg, tmp_path):
    assert write_glb(tmp_path / "a" / "b" / "egg.glb", *egg).is_file()


def test_a_file_says_what_it_is(egg, tmp_path):
    vertices, atlas, image = egg
    words = {"prompt": "a \N{DUCK}\nred", "seed": 3}
    tree, _ = content(write_glb(tmp_path / "egg.glb", *egg, about=About("duck", words, double_sided=True)))
    assert tree["asset"]["generator"].startswith("prolific") and tree["asset"]["extras"] == words
    assert tree["meshes"][0]["name"] == "duck" and tree["meshes"][0]["extras"] == words
    assert tree["materials"][0]["doubleSided"] and tree["materials"][0]["name"] == "duck"
    write_obj(tmp_path / "egg.obj", *egg, about=About("duck", words))
    head = (tmp_path / "egg.obj").read_text().splitlines()[:3]
    assert head[0].startswith("# prolific") and head[1:] == ['# prompt: "a \N{DUCK}\\nred"', "# seed: 3"]
    write_ply(tmp_path / "egg.ply", vertices, atlas.source[atlas.faces], field(vertices), about=About("duck", words))
    comments = [line for line in (tmp_path / "egg.ply").read_bytes().split(b"\n")[:6] if line.startswith(b"comment")]
    assert comments[1:] == [b'comment prompt: "a \\U0001f986\\nred"', b"comment seed: 3"]


def test_a_ply_file_holds_the_mesh_and_the_colours_of_its_vertices(egg, tmp_path):
    vertices, atlas, _ = egg
    faces = atlas.source[atlas.faces]
    found = read(write_ply(tmp_path / "egg.ply", vertices, faces, field(vertices)))
    np.testing.assert_allclose(found.vertices, to_file_axes(vertices.numpy()), atol=1e-6)
    np.testing.assert_array_equal(found.faces, faces.numpy())
    wanted = (field(vertices) * 255).round().numpy()
    np.testing.assert_array_equal(np.asarray(found.visual.vertex_colors)[:, :3], wanted)


def has_validator() -> bool:
    """Whether node is there and finds Khronos' package gltf-validator, in ./node_modules or through NODE_PATH."""
    if shutil.which("node") is None:
        return False
    return subprocess.run(["node", "-e", "require('gltf-validator')"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_validator(), reason="needs node and 'npm install gltf-validator'")
@pytest.mark.parametrize("about", [None, About("a \N{DUCK} 'red'", {"prompt": "a \N{DUCK}", "seed": 3}, True)])
def test_khronos_validator_finds_nothing(egg, tmp_path, about):
    glb = write_glb(tmp_path / "egg.glb", *egg, about=about)
    done = subprocess.run(["node", "-e", VALIDATE, str(glb)], capture_output=True, text=True, check=True)
    issues = json.loads(done.stdout)
    assert not issues["messages"], "errors, warnings, infos and hints"
