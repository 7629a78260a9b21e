"""Run folders as the commands leave them, small."""

from functools import cache

import imageio.v3 as iio
import numpy as np
import trimesh
import yaml
from PIL import Image

FACES = {"+z": "ff0000", "-z": "00ff00", "+x": "0000ff", "-x": "ffff00", "+y": "ffffff", "-y": "808080"}


def write_box(path, size=(1.0, 1.0, 1.0)):
    """A GLB of a box in a texture: the front, +z, is red, the left side, +x, is blue, the top is white."""
    box = trimesh.creation.box(size)
    box.unmerge_vertices()
    texels = np.zeros((1, 6, 3), np.uint8)
    uv = np.zeros((len(box.vertices), 2))
    for k, (side, colour) in enumerate(FACES.items()):
        texels[0, k] = list(bytes.fromhex(colour))
        normal = np.array([side[1] == axis for axis in "xyz"]) * (1 if side[0] == "+" else -1)
        uv[box.faces[box.face_normals @ normal > 0.9].ravel()] = (k + 0.5) / 6, 0.5
    picture = Image.fromarray(texels).resize((96, 16), Image.Resampling.NEAREST)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    path.write_bytes(box.export(file_type="glb"))


@cache
def turntable():
    """A short H.264 video."""
    frames = np.full((3, 16, 32, 3), 128, np.uint8)
    return iio.imwrite(
        "<bytes>", frames, extension=".mp4", fps=30, codec="libx264", macro_block_size=2, plugin="FFMPEG"
    )


def write_stage(folder, kind="Texture", particles=1, prompt="a red mushroom", **options):
    """What a stage leaves in its folder, small."""
    (folder / "validation").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"theta")
    guidance = {"class_path": "vsd.guidance.VSDGuidance", "init_args": {"kind": "vsd", "scale": 1.0, "model": "toybox"}}
    config = {
        "prompt": prompt,
        "seed_everything": 3,
        "trainer": {"max_steps": 900, "callbacks": [guidance], "logger": None},
        "model": {
            "class_path": f"lightning_modules.stages.{kind}Stage",
            "init_args": {"particles": particles, "lr": 0.01} | options,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    columns = "step,train/guidance,train/vsd_score_loss,train/vsd_phi_ratio"
    (folder / "metrics.csv").write_text(f"{columns}\n1,4.0,0.5,2.0\n2,,,\n3,2.0,0.25,0.9\n")
    for i in range(particles):
        Image.new("RGB", (16, 4), "teal").save(folder / f"contact-particle{i}.png")
        Image.new("RGB", (16, 4), "teal").save(folder / "validation" / f"particle{i}-step000450.png")
        (folder / f"turntable-particle{i}.mp4").write_bytes(turntable())


def write_dream(folder, prompt="a red mushroom", particles=1, seed=0):
    """What a run of dream leaves in its folder, small; the meshes are boxes."""
    for stage, seconds in (("nerf", 200.0), ("geometry", 40.0), ("texture", 100.5)):
        write_stage(folder / stage, stage.capitalize(), particles, prompt)
        (folder / stage / "finished").touch()
        (folder / stage / "seconds").write_text(f"{seconds}\n")
    for i in range(particles):
        write_box(folder / "texture" / f"mesh-particle{i}.glb", (1.0, 1.0 + 0.5 * i, 1.0))
        (folder / "texture" / f"mesh-particle{i}.obj").write_text("o box")
    wish = {"prompt": prompt, "preset": "toybox", "particles": particles, "seed": seed, "overrides": []}
    (folder / "dream.yaml").write_text(yaml.safe_dump(wish, allow_unicode=True))
    return folder
