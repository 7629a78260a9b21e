"""The nvdiffrast plug-in on a stand-in for nvdiffrast that rasterises by brute force, and on the real one on CUDA."""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rough_meshes import cameras, look, rough_torus

from scene.mesh import Mesh
from scene.mesh_rendering import render_mesh
from scene.visibility import BruteForceCaster, RayCaster

ROOT = Path(__file__).parents[2]
PLUG_IN = "scene.rasterizer_nvdiffrast"


class Context:
    """In the place of RasterizeCudaContext; keeps the sizes that were asked for."""

    def __init__(self):
        self.sizes = []


def rasterize(context, clip, faces, resolution, grad_db):
    """nvdiffrast.torch.rasterize by its documentation: (u, v, z / w, face + 1), the first row at the bottom.

    Reference: homogeneous barycentric coordinates of every pixel and face, the least z / w in [-1, 1] wins.
    """
    assert clip.dtype == torch.float32 and clip.is_contiguous() and faces.dtype == torch.int32 and not grad_db
    context.sizes.append(resolution)
    corners = clip.double()[:, faces.long()]  # (B, F, 3, 4)
    rows, columns = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in resolution)
    y, x = torch.meshgrid(rows.double(), columns.double(), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).view(1, 1, -1, 3)
    matrix = corners[..., [0, 1, 3]]
    flat = torch.linalg.det(matrix).abs() < 1e-12
    over_w = pixels @ torch.linalg.inv(torch.where(flat[..., None, None], torch.eye(3), matrix))  # (B, F, P, 3)
    inverse_w = over_w.sum(-1)
    depth = (over_w * corners[..., None, :, 2]).sum(-1)
    seen = (over_w >= 0).all(-1) & (inverse_w > 0) & (depth.abs() <= 1) & ~flat[..., None]
    nearest, face = torch.where(seen, depth, torch.inf).min(1)  # (B, P)
    hit = nearest < torch.inf
    image = torch.stack([torch.zeros_like(nearest), torch.zeros_like(nearest), nearest, face + 1.0], -1)
    return (image * hit[..., None]).nan_to_num().float().view(len(clip), *resolution, 4), None


@pytest.fixture
def plug_in(monkeypatch, capsys):
    """The plug-in's class, imported on top of the stand-in."""
    package, module = ModuleType("nvdiffrast"), ModuleType("nvdiffrast.torch")
    module.RasterizeCudaContext, module.rasterize, package.torch = Context, rasterize, module
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", module)
    monkeypatch.delitem(sys.modules, PLUG_IN, raising=False)
    plug_in = importlib.import_module(PLUG_IN)
    assert "non-commercial" in capsys.readouterr().out
    yield plug_in.NvdiffrastVisibility
    monkeypatch.delitem(sys.modules, PLUG_IN)


def test_it_sees_what_brute_force_sees(plug_in):
    mesh, view = rough_torus(8), look(cameras(3))
    ours = BruteForceCaster(mesh.vertices, mesh.faces).visible_faces(*view, 24)
    theirs = plug_in(mesh.vertices, mesh.faces).visible_faces(*view, 24)
    assert theirs.shape == ours.shape and theirs.dtype == torch.long
    assert 0.1 < (ours >= 0).float().mean() < 0.9
    assert (ours != theirs).float().mean() < 0.002, "only where a ray meets an edge"


def test_a_renderer_takes_it_and_gives_the_same_images_and_gradients(plug_in):
    seen_by, results = cameras(2).cameras(16), []
    mesh = rough_torus(8)
    for backend in (RayCaster, plug_in):
        vertices = mesh.vertices.clone().requires_grad_()
        moved = Mesh(vertices, mesh.faces)
        visibility = backend(vertices, mesh.faces)
        out = render_mesh(moved, seen_by, lambda points: 0.5 + 0.5 * points, visibility)
        (gradient,) = torch.autograd.grad(out.colour.sum() + out.coverage.square().sum(), vertices)
        results.append([out.colour, out.normal, out.coverage, gradient])
    assert visibility.context.sizes == [(16, 16)], "seen by nvdiffrast, not by warp"
    for ours, theirs in zip(*results, strict=True):
        assert ((ours - theirs).abs() > 1e-3).float().mean() < 0.01, "only where a ray meets an edge"
    assert results[0][3].abs().sum() > 0


def test_what_is_too_near_or_too_far_is_not_seen(plug_in):
    vertices = torch.tensor([[0.0, -1, -1], [0, 1, -1], [0, 0, 2]])
    faces = torch.tensor([[0, 1, 2]])
    matrix = torch.eye(4)[None].clone()
    matrix[0, :3, :3] = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # from +x
    for distance, seen in ((50.0, True), (101.0, False), (0.005, False)):
        matrix[0, 0, 3] = distance
        found = plug_in(distance * vertices, faces).visible_faces(matrix, torch.tensor([40.0]), 8)
        assert bool((found == 0).any()) == seen, distance


def test_a_mesh_without_faces_is_nothing(plug_in):
    visibility = plug_in(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert (visibility.visible_faces(*look(cameras(2)), 8) == -1).all() and visibility.context.sizes == []
    face, distance = visibility.first_hits(torch.zeros(2, 3), torch.ones(2, 3))
    assert face.tolist() == [-1, -1] and distance.isinf().all()


def test_one_context_serves_several_meshes(plug_in):
    mesh, context = rough_torus(6), Context()
    for size in (8, 16):
        plug_in(mesh.vertices, mesh.faces, context).visible_faces(*look(cameras(1)), size)
    assert context.sizes == [(8, 8), (16, 16)]


def test_the_project_never_imports_it():
    packages = ("common", "vsd", "scene", "toybox", "datamodules", "lightning_modules", "benchmarks", "evaluation")
    for file in (file for package in packages for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any("rasterizer_nvdiffrast" in name for name in names), file


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvdiffrast_sees_what_warp_sees():
    pytest.importorskip("nvdiffrast.torch")
    plug_in = importlib.import_module(PLUG_IN).NvdiffrastVisibility
    mesh, view = rough_torus(), tuple(v.cuda() for v in look(cameras(3)))
    vertices, faces = mesh.vertices.cuda(), mesh.faces.cuda()
    ours, theirs = (backend(vertices, faces).visible_faces(*view, 64) for backend in (RayCaster, plug_in))
    assert (ours != theirs).float().mean() < 0.01
