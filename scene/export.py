"""Meshes as files that other programs open: GLB, OBJ with its MTL and PNG, and PLY with the colours of its vertices.

Axes: files are y-up with the object's front to +z and one world unit a metre, as glTF asks; world x, y, z become file
z, x, y, a rotation, so that faces keep their winding. OBJ and PLY, which define no axes, get the same. A mesh that came
from a file lies where that has it (see Placement).
Colours: renders are shown to the diffusion model as they are, and it has seen sRGB images; rgb is therefore already
sRGB-encoded, which is what a glTF baseColorTexture and a PNG hold: values are written without a transfer function.
Material: metallic 0, roughness 1, single-sided. The renders know an albedo only; glTF's default is a metal, and any
lower roughness would add highlights that nobody optimised.
"""

import json
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from common.files import atomic_write
from common.pixels import to_uint8
from common.signals import uninterrupted
from scene.mesh import MeshError
from scene.mesh_files import Placement, placed
from scene.mesh_files import to_file_axes as to_file_axes
from scene.texture import Atlas

VERTICES, INDICES = 34962, 34963  # what a glTF buffer holds, as OpenGL numbers it


@dataclass(frozen=True)
class About:
    """What a file says of the mesh in it.

    Args:
        name: Of the mesh in other programs; None for the file's.
        words: Plain values by name, such as the prompt, which a GLB file has as `extras` and a PLY file as comments.
        double_sided: Whether the back of a face is seen, as of a sheet or a mesh with holes.
    """

    name: str | None = None
    words: dict[str, str | int | float] = field(default_factory=dict)
    double_sided: bool = False


@uninterrupted()  # trimesh would swallow what a signal raises
def write_glb(
    path: str | Path,
    vertices: Tensor,
    atlas: Atlas,
    image: Tensor,
    placement: Placement | None = None,
    about: About | None = None,
) -> Path:
    """Writes one mesh with its albedo as a binary glTF 2.0 file, complete or not at all.

    Args:
        path: Ends in .glb; its folder is created.
        vertices: (V, 3) of the unwrapped mesh, world units.
        atlas: Of the mesh, see `scene.texture.unwrap`.
        image: (S, S, 3), sRGB in [0, 1], row 0 on top.
        placement: Where the file has the mesh, None for the world's own place.
        about: What the file says of it.

    Returns:
        The path.

    Raises:
        MeshError: The mesh has no faces.
        OSError: The file cannot be written, in one line.
        ValueError: The path has another ending.
    """
    path, about = _checked(path, ".glb", atlas.faces), about or About()
    name = about.name or path.stem
    material = PBRMaterial(
        name=name,
        baseColorTexture=_picture(image),
        metallicFactor=0.0,
        roughnessFactor=1.0,
        doubleSided=about.double_sided,
    )
    scene = trimesh.Scene()
    mesh = _mesh(vertices, atlas, material, (placement or Placement()).to_glb)
    scene.add_geometry(mesh, node_name=name, geom_name=name)

    def label(tree: dict) -> None:
        tree["asset"]["generator"] = generator()
        if about.words:
            tree["asset"]["extras"] = about.words
            tree["meshes"][0]["extras"] = about.words  # which Blender, for one, shows as properties of the object
        (shape,) = tree["meshes"][0]["primitives"]
        for number, target in ((shape["indices"], INDICES), *((n, VERTICES) for n in shape["attributes"].values())):
            tree["bufferViews"][tree["accessors"][number]["bufferView"]]["target"] = target

    _write(path, export_glb(scene, include_normals=True, tree_postprocessor=label))
    return path


@uninterrupted()
def write_obj(
    path: str | Path,
    vertices: Tensor,
    atlas: Atlas,
    image: Tensor,
    placement: Placement | None = None,
    about: About | None = None,
) -> list[Path]:
    """Writes one mesh with its albedo as OBJ, and MTL and PNG of the same name beside it; the OBJ file comes last.

    Spaces in the name become _ in the MTL's and the PNG's, whose names OBJ and MTL files cannot quote.

    Args:
        path: Ends in .obj; its folder is created.
        vertices: (V, 3) of the unwrapped mesh, world units.
        atlas: Of the mesh, see `scene.texture.unwrap`.
        image: (S, S, 3), sRGB in [0, 1], row 0 on top.
        placement: Where the file has the mesh, None for the world's own place.
        about: What the file says of it, in comments.

    Returns:
        The paths of the three files, the OBJ's first.

    Raises:
        MeshError: The mesh has no faces.
        OSError: A file cannot be written, in one line.
        ValueError: The path has another ending.
    """
    path = _checked(path, ".obj", atlas.faces)
    name = "_".join(path.stem.split())
    white, black = [255, 255, 255], [0, 0, 0]
    material = SimpleMaterial(
        name=name, image=_picture(image), diffuse=white, ambient=white, specular=black, glossiness=0.0
    )
    mesh = _mesh(vertices, atlas, material, (placement or Placement()).to_file)
    text, others = export_obj(
        mesh,
        include_normals=True,
        return_texture=True,
        mtl_name=f"{name}.mtl",
        header=_comments(about).replace("\n", "\n# "),
    )
    written = [path.with_name(other) for other in others]
    for other, data in zip(written, others.values(), strict=True):
        _write(other, data)
    _write(path, text.encode())
    return [path, *written]


@uninterrupted()
def write_ply(
    path: str | Path,
    vertices: Tensor,
    faces: Tensor,
    colours: Tensor,
    placement: Placement | None = None,
    about: About | None = None,
) -> Path:
    """Writes one mesh with a colour per vertex as a binary PLY file, complete or not at all.

    Args:
        path: Ends in .ply; its folder is created.
        vertices: (V, 3), world units.
        faces: (F, 3), long.
        colours: (V, 3), sRGB in [0, 1].
        placement: Where the file has the mesh, None for the world's own place.
        about: What the file says of it, in comments.

    Returns:
        The path.

    Raises:
        MeshError: The mesh has no faces.
        OSError: The file cannot be written, in one line.
        ValueError: The path has another ending.
    """
    path = _checked(path, ".ply", faces)
    positions = placed(vertices, (placement or Placement()).to_file)
    rgb = to_uint8(colours).numpy()
    mesh = trimesh.Trimesh(positions, faces.cpu().numpy(), vertex_colors=rgb, process=False)
    head, end, body = export_ply(mesh, vertex_normal=True).partition(b"end_header\n")
    kind, layout, *rest = [line for line in head.splitlines(keepends=True) if not line.startswith(b"comment")]
    comments = "".join(f"comment {words}\n" for words in _comments(about).splitlines())
    lines = kind, layout, comments.encode("ascii", "backslashreplace"), *rest, end
    _write(path, b"".join(lines) + body)
    return path


def generator() -> str:
    """The program that writes, as files name it."""
    try:
        return f"prolific {metadata.version('prolific')}"
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "prolific"


def _comments(about: About | None) -> str:
    """Lines of text, one per word, each without breaks."""
    words = {} if about is None else about.words
    return "\n".join(
        [generator(), *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in words.items())]
    )


def _checked(path: str | Path, ending: str, faces: Tensor) -> Path:
    path = Path(path)
    if path.suffix != ending:
        raise ValueError(f"{path}: the name must end in {ending}")
    if len(faces) == 0:
        raise MeshError("the mesh has no faces; there is nothing to export")
    return path


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(image).numpy())


def _mesh(
    vertices: Tensor, atlas: Atlas, material: PBRMaterial | SimpleMaterial, matrix: np.ndarray
) -> trimesh.Trimesh:
    """The unwrapped mesh where a file has it."""
    positions = placed(vertices, matrix)
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
