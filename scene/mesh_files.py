"""Meshes from files of other programs, GLB, OBJ, PLY and STL, of any scale and position, and where they lie there.

A mesh is moved and scaled into a ball around the origin, and keeps the matrix that leads back, which scene.export
takes. Axes of a file: "y", as glTF asks: y up, the front to +z; "z", as in Blender and most CAD programs: z up, the
front to -y.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np
import torch
import trimesh
from torch import Tensor
from trimesh.visual import TextureVisuals

from common.signals import uninterrupted
from scene.mesh import Mesh, MeshError

ENDINGS = (".glb", ".obj", ".ply", ".stl")
LARGEST_FILE = 512  # MiB
LARGEST_MESH = 2_000_000  # faces
Up = Literal["y", "z"]
# The columns are the world's axes (front, left, up) in those of the file.
AXES = {"y": np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]), "z": np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])}
TURNED = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]  # from z up to y up
PACKED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")


@dataclass(frozen=True)
class GivenMesh:
    """A mesh of another program, in the world.

    Args:
        mesh: Vertices (V, 3) in a ball around the origin, faces (F, 3). Corners at the same place are one vertex.
        uv: (W, 2), the texture coordinates of the file, as in scene.texture; None where it has none.
        corners: (F, 3) long, the faces as indices into uv; None likewise.
        source: (W,) long, the vertex of each corner of the texture; None likewise.
        to_file: (4, 4) float64, from the world to where the file has the mesh.
        up: The axes of the file.
    """

    mesh: Mesh
    uv: Tensor | None
    corners: Tensor | None
    source: Tensor | None
    to_file: Tensor
    up: Up


@dataclass(frozen=True)
class Placement:
    """Where files have a mesh.

    Args:
        to_file: (4, 4), from the world to OBJ and PLY files; a rotation, one scale, and a translation.
        up: The axes of those; GLB files are y-up always.
    """

    to_file: np.ndarray = field(default_factory=lambda: np.eye(4)[[1, 2, 0, 3]])
    up: Up = "y"

    @property
    def to_glb(self) -> np.ndarray:
        """(4, 4), from the world to a GLB file."""
        return self.to_file if self.up == "y" else np.array(TURNED) @ self.to_file


def to_file_axes(vectors: np.ndarray) -> np.ndarray:
    """World vectors in the axes of the files.

    Args:
        vectors: (..., 3), x, y, z of the world.

    Returns:
        (..., 3), x, y, z of the files.
    """
    return vectors[..., [1, 2, 0]]


def placed(vertices: Tensor, matrix: np.ndarray) -> np.ndarray:
    """Vertices where a file has them.

    Args:
        vertices: (V, 3), world units.
        matrix: (4, 4), to the file.

    Returns:
        (V, 3), float64.
    """
    return vertices.detach().double().cpu().numpy() @ matrix[:3, :3].T + matrix[:3, 3]


def read_mesh(path: str | Path, radius: float = 0.5, up: Up = "y") -> GivenMesh:
    """Reads a mesh, with all its bodies and holes; materials and colours are left out.

    Args:
        path: Of a GLB, OBJ, PLY or STL file.
        radius: Of the ball around the origin in which the mesh is put, world units. Its centre is that of the mesh's
            bounding box.
        up: The axes of the file.

    Raises:
        MeshError: There is no such file, it holds no mesh of finite size, is too large, or refers to files outside of
            its folder. The message is one line that names the file.
    """
    path = Path(path)
    _require_file(path)
    positions, faces, uv = _read(path)
    if len(faces) == 0:
        raise MeshError(f"{path} has no faces; name a mesh of triangles or polygons")
    if len(faces) > LARGEST_MESH:
        raise MeshError(f"{path} has {len(faces)} faces, the most are {LARGEST_MESH}; decimate it first")
    if faces.min() < 0 or faces.max() >= len(positions):
        raise MeshError(f"{path}: a face has a vertex that is not there; export it anew")
    used, faces = np.unique(faces, return_inverse=True)
    faces, positions, uv = faces.reshape(-1, 3), positions[used], None if uv is None else uv[used]
    if not np.isfinite(positions).all():
        raise MeshError(f"{path} has vertices that are not finite; repair it in the program that wrote it")
    low, high = positions.min(0), positions.max(0)
    centre = low + (high - low) / 2
    reach = np.linalg.norm(positions - centre, axis=1).max()
    if not reach > 1e-30 or not np.isfinite(reach):
        raise MeshError(f"{path} has a size of {reach:g}, all its vertices are at one place or too far away")
    to_file = np.eye(4)
    to_file[:3, :3], to_file[:3, 3] = AXES[up] * (reach / radius), centre
    merged, source = np.unique(positions, axis=0, return_inverse=True)
    source = source.reshape(-1)
    world = (merged - centre) @ AXES[up] * (radius / reach)  # the inverse of a rotation is its transpose
    charts = (None, None, None)
    if uv is not None and np.isfinite(uv).all():
        charts = torch.tensor(uv, dtype=torch.float32), torch.tensor(faces), torch.tensor(source)
    mesh = Mesh(torch.tensor(world, dtype=torch.float32), torch.tensor(source[faces]))
    if not bool(mesh.face_vectors().any()):
        raise MeshError(f"{path} has no face with an area; there is nothing to texture")
    return GivenMesh(mesh, *charts, torch.tensor(to_file), up)


def _require_file(path: Path) -> None:
    """MeshError where a file is none that should be opened."""
    if path.suffix.lower() not in ENDINGS:
        raise MeshError(f"{path} is no {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]} file; export it as one of them")
    if not path.is_file():
        raise MeshError(f"{path} does not exist; name a mesh file")
    try:
        size = path.stat().st_size / 2**20
        if size > LARGEST_FILE:
            raise MeshError(f"{path} has {size:.0f} MiB, the most are {LARGEST_FILE}; decimate it first")
        references = _references(path)
    except OSError as error:
        raise MeshError(f"{path} cannot be read ({error.strerror})") from error
    folder = path.absolute().parent.resolve()
    for reference in references:
        inside = "://" not in reference and (folder / reference).resolve().is_relative_to(folder)
        if not inside:
            raise MeshError(f"{path} refers to '{reference[:100]}', outside of its folder; export it as one GLB file")


def _references(path: Path) -> list[str]:
    """The other files that a mesh file names."""
    if path.suffix.lower() == ".obj":
        found = _named(path, ("mtllib",))
        for library in found:
            if "://" not in library and (path.parent / library).is_file():
                found = [*found, *_named(path.parent / library, ("map_", "bump", "disp", "decal", "refl", "norm"))]
        return found
    if path.suffix.lower() == ".glb":
        tree = _gltf(path)
        parts = [part for key in ("buffers", "images") for part in tree.get(key, []) if isinstance(part, dict)]
        return [unquote(part["uri"]) for part in parts if not part.get("uri", "data:").startswith("data:")]
    return []


def _named(path: Path, words: tuple[str, ...]) -> list[str]:
    """The last words of the lines of an OBJ or MTL file that begin with one of some words; a name may have spaces."""
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            first, _, rest = line.strip().partition(" ")
            if first.lower().startswith(words) and rest.strip():
                found.append((rest if first.lower() == "mtllib" else rest.split()[-1]).strip())
    return found


def _gltf(path: Path) -> dict:
    """The JSON of a GLB file, whose figures are of a size that the file can hold."""
    with open(path, "rb") as file:
        head = file.read(20)
        if len(head) < 20 or head[:4] != b"glTF" or head[16:20] != b"JSON":
            raise MeshError(f"{path} is no GLB file, its first bytes are not those of one; export it anew")
        (length,) = struct.unpack("<I", head[12:16])
        try:
            tree = json.loads(file.read(min(length, 2**28)))
            counts = [int(part["count"]) for part in tree.get("accessors", [])]
            packed = [name for name in PACKED if name in tree.get("extensionsRequired", [])]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MeshError(f"{path} is damaged, its header cannot be read; export it anew") from error
    if packed:
        raise MeshError(f"{path} is compressed by {packed[0]}; export it without compression")
    if max(counts, default=0) > 3 * LARGEST_MESH or sum(counts) > 30 * LARGEST_MESH:
        raise MeshError(f"{path} has {max(counts)} values in one table, more than {LARGEST_MESH} faces need")
    return tree


@uninterrupted()  # trimesh would swallow what a signal raises
def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Positions (W, 3), faces (F, 3) and, where all parts have them, texture coordinates (W, 2), in the file's axes."""
    # A material of an OBJ file is of no use here; in a GLB file, a part without one has no texture coordinates.
    options = {"skip_materials": True} if path.suffix.lower() == ".obj" else {}
    try:
        scene = trimesh.load_scene(path, process=False, **options)
        positions, faces, uv, first = [], [], [], 0
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            part = scene.geometry[name]
            if not isinstance(part, trimesh.Trimesh):
                continue
            turned = np.linalg.det(matrix[:3, :3]) < 0  # a mirror turns the faces inside out
            positions.append(trimesh.transform_points(np.asarray(part.vertices, dtype=np.float64), matrix))
            faces.append(np.asarray(part.faces, dtype=np.int64)[:, :: -1 if turned else 1] + first)
            uv.append(part.visual.uv if isinstance(part.visual, TextureVisuals) else None)
            first += len(part.vertices)
    except Exception as error:
        # trimesh and numpy raise a dozen types for a damaged file.
        reason = " ".join(str(error).split())[:120]
        raise MeshError(f"{path} is damaged or no mesh ({type(error).__name__}: {reason}); export it anew") from error
    if not faces:
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), None
    whole = all(part is not None and len(part) == len(p) for part, p in zip(uv, positions, strict=True))
    return np.concatenate(positions), np.concatenate(faces), np.concatenate(uv) if whole else None
