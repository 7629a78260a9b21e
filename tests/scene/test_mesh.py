import itertools

import pytest
import torch

from scene.mesh import Mesh
from scene.tetrahedra import DMTet


def cube():
    """[-1, 1]^3 in twelve triangles."""
    vertices = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Mesh(vertices, torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]))


def blob(resolution=8, radius=0.6, centre=0.0):
    surface = DMTet(resolution)
    surface.initialise(lambda points: radius - (points - centre).norm(dim=-1))
    with torch.no_grad():
        surface.deformation.normal_()
    mesh = surface.extract()
    return Mesh(mesh.vertices.detach(), mesh.faces)


def joined(*meshes):
    offsets = itertools.accumulate((len(m.vertices) for m in meshes[:-1]), initial=0)
    return Mesh(
        torch.cat([m.vertices for m in meshes]), torch.cat([m.faces + o for m, o in zip(meshes, offsets, strict=True)])
    )


def test_a_cube_in_numbers():
    mesh = cube()
    assert mesh.volume().item() == pytest.approx(8)
    assert mesh.is_watertight and len(mesh.edges.ends) == 18 and (mesh.edges.count == 2).all()
    torch.testing.assert_close(mesh.face_vectors().norm(dim=1), torch.full((12,), 4.0))
    centres = mesh.corners().mean(1)
    assert ((mesh.face_normals() * centres).sum(1) - 1).abs().max() < 1e-6, "normals are axes and point outwards"
    assert ((mesh.vertex_normals() * mesh.vertices).sum(1) > 1.4).all()
    # Twelve right angles among eighteen edges, the other six are diagonals of the sides.
    assert mesh.normal_consistency().item() == pytest.approx(12 / 18)


def test_edges_agree_with_loops():
    mesh = blob()
    expected = {}
    for f, (a, b, c) in enumerate(mesh.faces.tolist()):
        for start, end, other in ((a, b, c), (b, c, a), (c, a, b)):
            expected.setdefault((min(start, end), max(start, end)), []).append((f, other, start < end))
    edges = mesh.edges
    assert [tuple(e) for e in edges.ends.tolist()] == sorted(expected)
    for i, (_, uses) in enumerate(sorted(expected.items())):
        assert edges.count[i] == len(uses) == 2
        assert set(edges.faces[i].tolist()) == {f for f, _, _ in uses}
        assert edges.opposite[i].tolist() == [dict((f, o) for f, o, _ in uses)[f] for f in edges.faces[i].tolist()]
        assert edges.consistent[i] == (uses[0][2] != uses[1][2])


def test_losses_agree_with_loops():
    mesh = blob()
    neighbours = [set() for _ in mesh.vertices]
    for a, b in mesh.edges.ends.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    sums = [sum(mesh.vertices[i] - mesh.vertices[j] for j in near).norm() for i, near in enumerate(neighbours)]
    assert mesh.laplacian().item() == pytest.approx(torch.stack(sums).mean().item(), rel=1e-4)
    normals = [torch.linalg.cross(b - a, c - a) for a, b, c in mesh.corners()]
    normals = [n / n.norm() for n in normals]
    cosines = [float(normals[f] @ normals[g]) for f, g in mesh.edges.faces.tolist()]
    assert mesh.normal_consistency().item() == pytest.approx(1 - sum(cosines) / len(cosines), rel=1e-4)
    v = 5
    around = [i for i, face in enumerate(mesh.faces.tolist()) if v in face]
    expected = torch.nn.functional.normalize(mesh.face_vectors()[around].sum(0), dim=0)
    torch.testing.assert_close(mesh.vertex_normals()[v], expected)


def test_a_hole_a_turned_face_and_a_third_face_on_an_edge_are_found():
    mesh = cube()
    assert not Mesh(mesh.vertices, mesh.faces[1:]).is_watertight
    turned = mesh.faces.clone()
    turned[3] = turned[3].flip(0)
    assert not Mesh(mesh.vertices, turned).is_watertight
    flipped = Mesh(mesh.vertices, mesh.faces.flip(1))
    assert flipped.is_watertight and flipped.volume().item() == pytest.approx(-8)
    fin = Mesh(
        torch.cat([mesh.vertices, torch.tensor([[3.0, 3, 3]])]), torch.cat([mesh.faces, torch.tensor([[0, 1, 8]])])
    )
    assert not fin.is_watertight and fin.edges.count.max() == 3 and (fin.edges.count == 1).sum() == 2
    assert fin.normal_consistency().item() == pytest.approx(11 / 17), "pairs only"
    border = Mesh(mesh.vertices, mesh.faces[1:]).edges
    assert (border.faces[border.count == 1, 1] == -1).all() and (border.count == 1).sum() == 3


def test_gradients_are_those_of_finite_differences():
    mesh = blob(3, 0.3)
    start, faces = mesh.vertices.double().requires_grad_(), mesh.faces

    def losses(vertices):
        mesh = Mesh(vertices, faces)
        return mesh.normal_consistency(), mesh.laplacian(), mesh.volume(), mesh.vertex_normals(), mesh.face_normals()

    assert torch.autograd.gradcheck(losses, start)


def test_faces_without_area_leave_gradients_finite():
    mesh = cube()
    vertices = mesh.vertices.clone()
    vertices[1] = vertices[0]
    vertices.requires_grad_()
    degenerate = Mesh(vertices, mesh.faces)
    assert (degenerate.face_normals().norm(dim=1) == 0).sum() == 2
    (degenerate.normal_consistency() + degenerate.laplacian() + degenerate.vertex_normals().sum()).backward()
    assert vertices.grad.isfinite().all()


def test_small_components_are_dropped():
    large, small, tiny = blob(14, 0.7), blob(10, 0.35, 2.0 / 3), blob(6, 0.2, 0.5)
    tiny = Mesh(tiny.vertices + 3, tiny.faces)
    small = Mesh(small.vertices + 1, small.faces)
    unused = Mesh(torch.full((2, 3), 9.0), torch.zeros(0, 3, dtype=torch.long))
    mesh = joined(small, unused, large, tiny)
    count, label = mesh.components()
    assert count == 3 and torch.bincount(label).tolist() == [len(m.faces) for m in (small, large, tiny)]
    assert len(tiny.faces) < 0.04 * len(mesh.faces) < len(small.faces)
    kept = mesh.without_small_components(0.04)
    assert kept.components()[0] == 2 and len(kept.vertices) == len(small.vertices) + len(large.vertices)
    torch.testing.assert_close(kept.volume(), small.volume() + large.volume())
    assert kept.is_watertight
    assert mesh.without_small_components(1.0).is_empty
    assert len(large.without_small_components(1.0).faces) == len(large.faces)


def test_an_empty_mesh_answers():
    mesh = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert mesh.is_empty and mesh.is_watertight and mesh.components()[0] == 0
    assert mesh.face_normals().shape == mesh.vertex_normals().shape == (0, 3)
    assert mesh.normal_consistency() == mesh.laplacian() == mesh.volume() == 0
    assert mesh.without_small_components().is_empty
    assert not cube().is_empty
