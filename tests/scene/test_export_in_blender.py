"""A GLB as Blender opens it: name, upright axes, metres, texture, and the properties that the prompt is in."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
import trimesh

from scene.export import About, write_glb
from scene.texture import unwrap

# Debian's Blender 3.4 asks numpy for a name that newer ones lack.
OPEN = """
import sys, json, numpy
numpy.bool = bool
import bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[-1])
(body,) = [one for one in bpy.context.scene.objects if one.type == "MESH"]
corners = [body.matrix_world @ vertex.co for vertex in body.data.vertices]
print("FOUND" + json.dumps({
    "name": body.name, "faces": len(body.data.polygons), "texture": [list(i.size) for i in bpy.data.images],
    "uv": len(body.data.uv_layers), "low": [min(c[k] for c in corners) for k in range(3)],
    "high": [max(c[k] for c in corners) for k in range(3)], "prompt": body.data.get("prompt"),
}))
"""


@pytest.mark.skipif(shutil.which("blender") is None, reason="Blender does NOT open the GLB: it is not installed")
def test_blender_opens_a_textured_mesh_upright_with_its_name_and_prompt(tmp_path):
    box = trimesh.creation.box((0.5, 0.25, 2.0))  # two metres high, z up
    vertices = torch.tensor(np.array(box.vertices) + [0.1, 0, 0], dtype=torch.float32)
    atlas = unwrap(vertices, torch.tensor(np.array(box.faces)), size=64)
    about = About("a tall box", {"prompt": "a tall box"})
    glb = write_glb(tmp_path / "box.glb", vertices, atlas, torch.rand(64, 64, 3), about=about)
    (tmp_path / "open.py").write_text(OPEN)
    command = ["blender", "-b", "--factory-startup", "--python", str(tmp_path / "open.py"), "--", str(glb)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("FOUND")]
    found = json.loads(line.removeprefix("FOUND"))
    assert found["name"] == found["prompt"] == "a tall box" and found["faces"] == 12
    assert found["texture"] == [[64, 64]] and found["uv"] == 1
    # The world's front, +x, is what Blender's front view sees, -y.
    assert found["low"] == pytest.approx([-0.125, -0.35, -1], abs=1e-5)
    assert found["high"] == pytest.approx([0.125, 0.15, 1], abs=1e-5)
