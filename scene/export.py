"""Textured meshes as files that other programs open: GLB, and OBJ with its MTL and PNG.

Axes: files are y-up with the object's front to +z and one world unit a metre, as glTF asks; world x, y, z become file
z, x, y, a rotation, so that faces keep their winding. OBJ, which defines no axes, gets the same.
Colours: renders are shown to the diffusion model as they are, and it has seen sRGB images; rgb is therefore already
sRGB-encoded, which is what a glTF baseColorTexture and a PNG hold: values are written without a transfer function.
Material: metallic 0, roughness 1, single-sided. The renders know an albedo only; glTF's default is a metal, and any
lower roughness would add highlights that nobody optimised.
"""

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from common.files import atomic_write
from common.pixels import to_uint8
from scene.mesh import MeshError
from scene.texture import Atlas


def to_file_axes(vectors: np.ndarray) -> np.ndarray:
    """World vectors in the axes of the files.

    Args:
        vectors: (..., 3), x, y, z of the world.

    Returns:
        (..., 3), x, y, z of the files.
    """
    return vectors[..., [1, 2, 0]]


def write_glb(path: str | Path, vertices: Tensor, atlas: Atlas, image: Tensor) -> Path:
    """Writes one mesh with its albedo as a binary glTF 2.0 file, complete or not at all.

    Args:
        path: Ends in .glb; its folder is created.
        vertices: (V, 3) of the unwrapped mesh, world units.
        atlas: Of the mesh, see `scene.texture.unwrap`.
        image: (S, S, 3), sRGB in [0, 1], row 0 on top.

    Returns:
        The path.

    Raises:
        MeshError: The mesh has no faces.
        OSError: The file cannot be written, in one line.
        ValueError: The path has another ending.
    """
    path = _checked(path, ".glb")
    material = PBRMaterial(
        name=path.stem,
        baseColorTexture=_picture(image),
        metallicFactor=0.0,
        roughnessFactor=1.0,
        doubleSided=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(_mesh(vertices, atlas, material), node_name=path.stem, geom_name=path.stem)
    _write(path, export_glb(scene, include_normals=True))
    return path


def write_obj(path: str | Path, vertices: Tensor, atlas: Atlas, image: Tensor) -> list[Path]:
    """Writes one mesh with its albedo as OBJ, and MTL and PNG of the same name beside it; the OBJ file comes last.

    Spaces in the name become _ in the MTL's and the PNG's, whose names OBJ and MTL files cannot quote.

    Args:
        path: Ends in .obj; its folder is created.
        vertices: (V, 3) of the unwrapped mesh, world units.
        atlas: Of the mesh, see `scene.texture.unwrap`.
        image: (S, S, 3), sRGB in [0, 1], row 0 on top.

    Returns:
        The paths of the three files, the OBJ's first.

    Raises:
        MeshError: The mesh has no faces.
        OSError: A file cannot be written, in one line.
        ValueError: The path has another ending.
    """
    path = _checked(path, ".obj")
    name = "_".join(path.stem.split())
    white, black = [255, 255, 255], [0, 0, 0]
    material = SimpleMaterial(
        name=name, image=_picture(image), diffuse=white, ambient=white, specular=black, glossiness=0.0
    )
    text, others = export_obj(
        _mesh(vertices, atlas, material), include_normals=True, return_texture=True, mtl_name=f"{name}.mtl", header=None
    )
    written = [path.with_name(other) for other in others]
    for other, data in zip(written, others.values(), strict=True):
        _write(other, data)
    _write(path, text.encode())
    return [path, *written]


def _checked(path: str | Path, ending: str) -> Path:
    path = Path(path)
    if path.suffix != ending:
        raise ValueError(f"{path}: the name must end in {ending}")
    return path


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(image).numpy())


def _mesh(vertices: Tensor, atlas: Atlas, material: PBRMaterial | SimpleMaterial) -> trimesh.Trimesh:
    """The unwrapped mesh in the files' axes."""
    if len(atlas.faces) == 0:
        raise MeshError("the mesh has no faces; there is nothing to export")
    positions = to_file_axes(vertices.detach().double().cpu().numpy())
    source = atlas.source.cpu().numpy()
    faces = atlas.faces.cpu().numpy()
    # On the mesh before it was cut: the normals of corners that share a vertex must agree, or seams show in the light.
    normals = trimesh.Trimesh(positions, source[faces], process=False).vertex_normals[source]
    # A vertex of faces without area has none; any unit vector keeps the file valid.
    normals = np.where(np.linalg.norm(normals, axis=1, keepdims=True) > 0.5, normals, [0.0, 1.0, 0.0])
    return trimesh.Trimesh(
        positions[source],
        faces,
        vertex_normals=normals,
        visual=trimesh.visual.TextureVisuals(uv=atlas.uv.cpu().numpy().astype(np.float64), material=material),
        process=False,
    )


def _write(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); free or name another place") from error
