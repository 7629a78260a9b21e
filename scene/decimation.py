"""Fewer faces for a mesh, by quadric error (fast-simplification)."""

import numpy as np
import torch
from torch import Tensor

from scene.mesh import Mesh, MeshError


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """A mesh of about as many faces as wanted, without unused vertices.

    Args:
        mesh: The mesh; one with fewer faces stays as it is.
        faces: Wanted, >= 4. Where no edge can be collapsed without turning a face over, more are left.

    Returns:
        The mesh.

    Raises:
        MeshError: Nothing is left of it, or the package fast-simplification is missing.

    Source: Garland and Heckbert, Surface simplification using quadric error metrics, 1997.
    """
    if len(mesh.faces) <= faces:
        return mesh
    try:
        import fast_simplification
    except ImportError as error:
        raise MeshError("fewer faces need fast-simplification; pip install fast-simplification") from error
    points = mesh.vertices.detach().float().cpu().numpy()
    found, triangles = fast_simplification.simplify(
        np.ascontiguousarray(points), mesh.faces.int().cpu().numpy(), target_count=faces
    )
    if len(triangles) == 0:
        raise MeshError(f"nothing is left of {len(mesh.faces)} faces after decimation to {faces}; ask for more")
    used, renumbered = np.unique(triangles, return_inverse=True)

    def tensor(array: np.ndarray, like: Tensor) -> Tensor:
        return torch.as_tensor(array).to(like)

    return Mesh(tensor(found[used], mesh.vertices), tensor(renumbered.reshape(-1, 3), mesh.faces))
