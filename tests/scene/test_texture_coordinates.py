import pytest
import torch
import trimesh

from scene.mesh import Mesh
from scene.texture import Atlas, unwrap
from scene.texture_coordinates import unusable


@pytest.fixture(scope="module")
def ball():
    sphere = trimesh.creation.icosphere(2)
    return Mesh(torch.tensor(sphere.vertices, dtype=torch.float32), torch.tensor(sphere.faces))


@pytest.fixture(scope="module")
def atlas(ball):
    return unwrap(ball.vertices, ball.faces, 256)


def test_charts_without_overlap_are_usable(ball, atlas):
    assert unusable(ball, atlas) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda uv: 2 * uv, "repeat"),
        (lambda uv: uv - 0.2, "repeat"),
        (lambda uv: torch.minimum(uv, 1 - uv), "overlap"),  # as of a texture for both halves of a symmetric object
        (lambda uv: torch.full_like(uv, 0.5), "no place"),  # as of a palette
        (lambda uv: torch.where(uv[:, :1] < 0.5, torch.tensor(0.25), uv), "no place"),
    ],
)
def test_coordinates_that_no_image_can_be_baked_for_are_told(ball, atlas, change, word):
    assert word in unusable(ball, Atlas(change(atlas.uv), atlas.faces, atlas.source, atlas.size))
