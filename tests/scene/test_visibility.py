"""What rays and pixels see of a mesh: warp against brute force, and what becomes of bad meshes."""

import errno
import os
import subprocess
import sys

import pytest
import torch
import warp
from rough_meshes import cameras, look, rough_torus

from scene.cameras import pixel_rays
from scene.visibility import BruteForceCaster, RayCaster, intersect


@pytest.mark.parametrize("backend", [RayCaster, BruteForceCaster])
def test_the_faces_of_pixels_are_the_first_hits_of_the_rays_through_their_centres(backend):
    mesh, view = rough_torus(8), look(cameras(3))
    visibility = backend(mesh.vertices, mesh.faces)
    seen = visibility.visible_faces(*view, 12)
    assert seen.shape == (3, 12, 12) and seen.dtype == torch.long
    assert torch.equal(seen.flatten(), visibility.first_hits(*pixel_rays(*view, 12))[0])
    assert 20 < (seen >= 0).sum() < seen.numel() - 20


def test_distances_of_a_caster_are_those_along_the_rays():
    mesh = rough_torus()
    origins, directions = pixel_rays(*look(cameras(2)), 16)
    face, distance = RayCaster(mesh.vertices, mesh.faces).first_hits(origins, directions)
    assert torch.equal(face < 0, distance == torch.inf) and (face >= 0).any()
    _, expected = intersect(mesh.corners()[face.clamp(min=0)], origins, directions)
    torch.testing.assert_close(distance[face >= 0], expected[face >= 0], atol=1e-5, rtol=1e-5)


def test_vertices_that_are_no_numbers_are_refused():
    vertices = torch.rand(3, 3)
    vertices[1, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        RayCaster(vertices, torch.tensor([[0, 1, 2]]))


def test_a_caster_keeps_the_mesh_that_it_was_built_from():
    """The hierarchy holds a copy: an optimizer's step must not move what was built."""
    vertices, faces = torch.tensor([[0.0, -1, -1], [0, 1, -1], [0, 0, 2]]), torch.tensor([[0, 1, 2]])
    caster = RayCaster(vertices, faces)
    vertices += 100
    _, distance = caster.first_hits(torch.tensor([[2.0, 0, 0]]), torch.tensor([[-1.0, 0, 0]]))
    assert distance.item() == pytest.approx(2)
    assert caster.backend.startswith("warp ") and caster.backend.endswith("(cpu)")


def test_a_line_in_a_faces_plane_gives_numbers():
    triangle = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    weights, distance = intersect(triangle, torch.tensor([[-1.0, 0.2, 0]]), torch.tensor([[1.0, 0, 0]]))
    assert weights.isfinite().all() and distance.isfinite().all()


def test_warp_says_nothing():
    code = (
        "import torch; from scene.visibility import RayCaster;"
        "RayCaster(torch.eye(3), torch.tensor([[0, 1, 2]])).first_hits(torch.zeros(1, 3), torch.ones(1, 3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_full_disk_under_warps_cache_is_named(monkeypatch):
    def launch(*_, **__):  # as warp does where it cannot write what it compiles
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mesh = rough_torus()
    caster = RayCaster(mesh.vertices, mesh.faces)
    monkeypatch.setattr("scene.visibility.warp.launch", launch)
    with pytest.raises(OSError, match="No space left on device") as caught:
        caster.visible_faces(*look(cameras(1)), 4)
    assert caught.value.filename == warp.config.kernel_cache_dir
