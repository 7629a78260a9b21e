import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import distance_transform_edt

import scene.texture
from scene.mesh import MeshError
from scene.texture import REACH, Atlas, bake, surface_of_texels, unwrap

ICOSPHERE = trimesh.creation.icosphere(subdivisions=2)
SPHERE = torch.tensor(np.array(ICOSPHERE.vertices), dtype=torch.float32), torch.tensor(np.array(ICOSPHERE.faces))


def box(*extents: float):
    cuboid = trimesh.creation.box(extents)
    return torch.tensor(np.array(cuboid.vertices), dtype=torch.float32), torch.tensor(np.array(cuboid.faces))


def quad(low: float, high: float, size: int) -> tuple[torch.Tensor, Atlas]:
    """The square [-1, 1]^2 at z = 0.25 whose corners lie at uv low and high."""
    vertices = torch.tensor([[-1.0, -1, 0.25], [1, -1, 0.25], [1, 1, 0.25], [-1, 1, 0.25]])
    uv = torch.tensor([[low, low], [high, low], [high, high], [low, high]])
    return vertices, Atlas(uv, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.arange(4), size)


def ramp(points):
    return (points + 1) / 2


def smooth(points):
    return 0.5 + 0.5 * torch.sin(2 * points + torch.tensor([0.3, 1.1, 2.5], dtype=points.dtype))


def uv_areas(atlas: Atlas) -> torch.Tensor:
    """Areas (F,) in texels."""
    a, b, c = (atlas.uv.double() * atlas.size)[atlas.faces].unbind(1)
    return ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2


def lookup(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear lookup, clamped at the border, of an image (S, S, 3) whose row 0 is at v = 1."""
    size = len(image)
    at = np.stack([(1 - uv[:, 1]) * size - 0.5, uv[:, 0] * size - 0.5], 1)
    low = np.floor(at).astype(int)
    fraction = at - low
    total = np.zeros((len(uv), 3))
    for down in (0, 1):
        for right in (0, 1):
            i, j = np.clip(low[:, 0] + down, 0, size - 1), np.clip(low[:, 1] + right, 0, size - 1)
            vertical, horizontal = fraction.T
            weight = (vertical if down else 1 - vertical) * (horizontal if right else 1 - horizontal)
            total += weight[:, None] * image[i, j]
    return total


def worst_error(vertices, atlas, image: np.ndarray, colour, count=20000) -> float:
    """The largest error of the texture's colour over points on the surface, each corner and edge of a face included."""
    generator = torch.Generator().manual_seed(3)
    face = torch.randint(len(atlas.faces), (count,), generator=generator)
    weights = torch.rand(count, 3, generator=generator)
    weights[: count // 2, 0] = 0
    weights[: count // 8, 1] = 0
    weights = (weights / weights.sum(1, keepdim=True)).double()[..., None]
    corners = atlas.faces[face]
    points = (vertices.double()[atlas.source[corners]] * weights).sum(1)
    found = lookup(image, (atlas.uv.double()[corners] * weights).sum(1).numpy())
    return float(np.abs(found - colour(points).numpy()).max())


def naive_surface(atlas: Atlas, row: int, column: int) -> tuple[float, list[int]]:
    """Distance in texels from a texel's centre to the nearest face, and the faces that are as near."""
    point = np.array([column + 0.5, atlas.size - row - 0.5])
    distances = []
    for corner in (atlas.uv.double() * atlas.size)[atlas.faces].numpy():
        x, y = (corner - point).T
        turns = [x[k] * y[(k + 1) % 3] - y[k] * x[(k + 1) % 3] for k in range(3)]
        nearest = 0.0
        if not (min(turns) >= 0 or max(turns) <= 0):
            nearest = math.inf
            for k in range(3):
                start, along = corner[k], corner[(k + 1) % 3] - corner[k]
                t = min(1.0, max(0.0, float((point - start) @ along / (along @ along))))
                nearest = min(nearest, math.dist(point, start + t * along))
        distances.append(nearest)
    return min(distances), [f for f, d in enumerate(distances) if d <= min(distances) + 1e-9]


def test_a_ramp_on_a_quad_is_exact_in_every_texel():
    """Texel (i, j) has its centre at u = (j + 0.5) / S, v = 1 - (i + 0.5) / S, row 0 on top."""
    vertices, atlas = quad(0.0, 1.0, 8)
    u = ((torch.arange(8) + 0.5) / 8).expand(8, 8)
    expected = torch.stack([u, 1 - u.T, torch.full_like(u, 0.625)], -1)
    torch.testing.assert_close(bake(vertices, atlas, ramp), expected)


def test_texels_around_a_chart_copy_the_nearest_ones():
    vertices, atlas = quad(0.3, 0.6, 20)  # covers the centres of rows 8 ... 13, columns 6 ... 11
    image = bake(vertices, atlas, ramp)
    covered = surface_of_texels(atlas)[0] >= 0
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[7:15, 5:13] = True  # and one texel more all around
    assert torch.equal(covered, expected)
    # One texel beyond the quad's left edge, u = 0.3, the colour is that of the edge.
    torch.testing.assert_close(image[8:14, 5, 0], torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(image[10, 6, 0].item(), 0.025 / 0.3, atol=1e-6, rtol=0)
    for row, column in (~covered).nonzero().tolist():
        distance = (covered.nonzero() - torch.tensor([row, column])).square().sum(1)
        nearest = covered.nonzero()[distance == distance.min()]
        assert any(torch.equal(image[row, column], image[i, j]) for i, j in nearest.tolist()), (row, column)


def test_the_surface_of_texels_agrees_with_a_loop_over_all_faces():
    atlas = unwrap(*box(0.4, 0.9, 1.3), size=40, padding=2)
    face, weights = surface_of_texels(atlas)
    corners = (atlas.uv.double() * atlas.size)[atlas.faces]
    states = set()
    for row in range(40):
        for column in range(0, 40, 2):
            distance, nearest = naive_surface(atlas, row, column)
            if abs(distance - REACH) < 1e-6:
                continue
            states.add((distance == 0, distance <= REACH))
            if distance > REACH:
                assert face[row, column] == -1
                continue
            assert int(face[row, column]) in nearest
            assert weights[row, column].min() >= 0 and weights[row, column].sum().item() == pytest.approx(1)
            point = weights[row, column] @ corners[face[row, column]]
            centre = torch.tensor([column + 0.5, 40 - row - 0.5], dtype=torch.float64)
            assert (point - centre).norm().item() == pytest.approx(distance, abs=1e-9)
    assert states == {(True, True), (False, True), (False, False)}


def test_the_result_does_not_depend_on_the_size_of_chunks(monkeypatch):
    atlas = unwrap(*SPHERE, size=96)
    whole = bake(SPHERE[0], atlas, smooth)
    sizes = []

    def recorded(points):
        sizes.append(len(points))
        assert not torch.is_grad_enabled()
        return smooth(points)

    monkeypatch.setattr(scene.texture, "CHUNK", 1000)
    assert torch.equal(bake(SPHERE[0], atlas, recorded), whole)
    assert max(sizes) == 1000 and len(sizes) > 2


def test_an_atlas_keeps_the_faces_and_is_the_same_each_time():
    vertices, faces = SPHERE
    atlas = unwrap(vertices, faces, size=256)
    assert torch.equal(atlas.source[atlas.faces], faces)
    assert (uv_areas(atlas) > 0).all()
    again = unwrap(vertices, faces, size=256)
    assert torch.equal(atlas.uv, again.uv) and torch.equal(atlas.faces, again.faces)


@pytest.mark.parametrize(("size", "padding"), [(64, 2), (96, 5), (96, 8)])
def test_charts_fill_the_image_without_overlap_and_keep_their_distance(size, padding):
    atlas = unwrap(*SPHERE, size=size, padding=padding)
    margin = padding / 2 / size
    assert atlas.uv.min() >= margin - 1e-6 and atlas.uv.max() <= 1 - margin + 1e-6
    assert (atlas.uv.amax(0) - atlas.uv.amin(0)).max() * size > 0.9 * size - 2 * padding, "the scale is too small"

    graph = trimesh.graph.connected_component_labels(
        trimesh.geometry.faces_to_edges(atlas.faces.numpy()), node_count=len(atlas.uv)
    )
    chart_of_face = graph[atlas.faces[:, 0].numpy()]
    corners = (atlas.uv.double() * size)[atlas.faces]  # (F, 3, 2)
    k = torch.arange(size, dtype=torch.float64) + 0.5
    centres = torch.stack(torch.meshgrid(k, size - k, indexing="xy"), -1).reshape(-1, 2)
    turns = torch.stack([
        (corners[:, (k + 1) % 3] - corners[:, k])[:, None, 0] * (centres - corners[:, None, k])[..., 1]
        - (corners[:, (k + 1) % 3] - corners[:, k])[:, None, 1] * (centres - corners[:, None, k])[..., 0]
        for k in range(3)
    ])  # fmt: skip
    inside = (turns > 0).all(0) | (turns < 0).all(0)  # (F, S^2)
    assert inside.sum(0).max() == 1, "faces overlap"
    owner = surface_of_texels(atlas)[0].flatten()
    assert torch.equal(owner[inside.any(0)], inside.long().argmax(0)[inside.any(0)])

    label = np.full(size * size, -1)
    label[inside.any(0)] = chart_of_face[inside.long().argmax(0)[inside.any(0)]]
    tiled = np.tile(label.reshape(size, size), (2, 2))  # charts also keep their distance when the texture repeats
    assert len(np.unique(label)) > 3
    for chart in np.unique(label[label >= 0]):
        distance = distance_transform_edt(tiled != chart)
        others = (tiled != chart) & (tiled >= 0)
        assert distance[others].min() >= padding


@pytest.mark.parametrize("extents", [(0.2, 0.7, 1.6), (1, 1, 1)])  # the cube's charts fill two thirds of the image
def test_all_charts_have_the_same_scale(extents):
    vertices, faces = box(*extents)
    atlas = unwrap(vertices, faces, size=256)
    a, b, c = vertices.double()[faces].unbind(1)
    scale = uv_areas(atlas) / (torch.linalg.cross(b - a, c - a).norm(dim=1) / 2)
    assert scale.max() / scale.min() < 1.03  # xatlas rounds charts to whole texels
    lengths = (vertices.double()[faces] - vertices.double()[faces.roll(1, 1)]).norm(dim=-1)
    uv = atlas.uv.double()
    stretch = (uv[atlas.faces] - uv[atlas.faces.roll(1, 1)]).norm(dim=-1) / lengths
    assert stretch.max() / stretch.min() < 1.03


@pytest.mark.parametrize(("unit", "shift"), [(1e-4, 0), (1e3, 0), (1, 1e3)])
def test_no_face_is_lost_for_its_size(unit, shift):
    atlas = unwrap(SPHERE[0] * unit + shift, SPHERE[1], size=128)
    assert (uv_areas(atlas) > 0.01).all()


def test_lookups_on_the_surface_find_the_fields_colour_also_on_seams():
    vertices, faces = SPHERE
    atlas = unwrap(vertices, faces, size=256, padding=12)
    image = bake(vertices, atlas, smooth)
    assert image.min() >= 0 and image.max() <= 1
    assert worst_error(vertices, atlas, image.numpy(), smooth) < 0.01
    for level in (1, 2):  # 3 * 2^level <= padding
        side = 256 >> level
        mip = image.reshape(side, 2**level, side, 2**level, 3).mean((1, 3))
        assert worst_error(vertices, atlas, mip.numpy(), smooth) < 0.01 * 2**level, level


def test_faces_without_area_do_no_harm():
    vertices, faces = SPHERE
    flat = torch.tensor([[5, 5, 9], [7, 7, 7]])
    atlas = unwrap(vertices, torch.cat([faces[:100], flat, faces[100:]]), size=256)
    areas = uv_areas(atlas)
    assert torch.equal((areas == 0).nonzero()[:, 0], torch.tensor([100, 101]))
    image = bake(vertices, atlas, smooth)
    kept = Atlas(atlas.uv, atlas.faces[areas > 0], atlas.source, atlas.size)
    assert worst_error(vertices, kept, image.numpy(), smooth) < 0.01


def test_a_face_without_area_in_the_atlas_colours_nothing():
    vertices, atlas = quad(0.0, 1.0, 8)
    line = torch.tensor([[4, 5, 6]])
    vertices = torch.cat([vertices, torch.full((3, 3), -1.0)])
    uv = torch.cat([atlas.uv, torch.tensor([[0.0, 0.0], [0.25, 0.25], [1.0, 1.0]])])
    with_line = Atlas(uv, torch.cat([line, atlas.faces]), torch.arange(7), 8)
    torch.testing.assert_close(bake(vertices, with_line, ramp), bake(vertices, atlas, ramp))


@pytest.mark.parametrize(
    ("vertices", "faces", "size", "message"),
    [
        (SPHERE[0], SPHERE[1][:0], 64, "no faces"),
        (SPHERE[0].log(), SPHERE[1], 64, "not finite"),
        (SPHERE[0], SPHERE[1] * 0, 64, "no face with an area"),
        (SPHERE[0], SPHERE[1], 16, "charts do not fit a texture of size 16"),
    ],
)
def test_a_mesh_that_cannot_be_unwrapped_is_refused_in_one_line(vertices, faces, size, message):
    with pytest.raises(MeshError, match=message) as caught:
        unwrap(vertices, faces, size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"padding": 1}, "padding is 1 "), ({"size": 12, "padding": 6}, "less than half the size, 12")],
)
def test_a_wrong_padding_is_the_callers_fault_not_the_meshs(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        unwrap(*SPHERE, **settings)
    assert not isinstance(caught.value, MeshError)
