"""What a differentiable mesh render costs, and where: python -m benchmarks.mesh_render [--device cuda].

Per image size and face count: building warp's hierarchy, its visibility query, shading (barycentric weights and
normals), outlines (edges, silhouettes, antialiasing), the backward pass, and the whole render. The reference is
visibility by brute force, the plain torch test of all faces with all rays, where that is feasible; it is timed in
turn with the others. Then a whole geometry step: DMTet extraction, render, the two smoothness losses, backward, Adam.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.timing import interleaved, row
from scene.cameras import pixel_rays, turntable
from scene.mesh import Mesh
from scene.rasterizer import interpolate, rasterize, visible_fragments
from scene.silhouettes import antialias, silhouettes
from scene.tetrahedra import DMTet
from scene.visibility import BruteForceCaster, RayCaster

FEASIBLE = 2**25  # pairs of rays and faces for the reference


def ball(resolution: int, device: str) -> DMTet:
    """A ball of radius 0.5 with bumps on a grid of so many cells per axis; about 10 resolution^2 faces."""
    surface = DMTet(resolution).to(device)
    surface.initialise(lambda p: 0.5 + 0.05 * torch.sin(9 * p).prod(-1) - p.norm(dim=-1))
    return surface


def render(mesh: Mesh, view: tuple[torch.Tensor, torch.Tensor], size: int) -> torch.Tensor:
    """Antialiased normals and coverage.

    Args:
        mesh: What is seen.
        view: Camera-to-world matrices (B, 4, 4) and vertical fields of view (B,), degrees.
        size: Pixels per side.

    Returns:
        (B, size, size, 4).
    """
    caster = RayCaster(mesh.vertices, mesh.faces)
    fragments = rasterize(mesh.vertices, mesh.faces, *view, size, caster)
    image = torch.cat([interpolate(fragments, mesh.faces, mesh.vertex_normals()), fragments.mask], -1)
    return antialias(image, silhouettes(mesh, *view, size, caster))


def parts(mesh: Mesh, view: tuple[torch.Tensor, torch.Tensor], size: int) -> dict[str, Callable[[], object]]:
    """The parts of a render, each alone, and the whole of it.

    Args:
        mesh: What is seen.
        view: Camera-to-world matrices (B, 4, 4) and vertical fields of view (B,), degrees.
        size: Pixels per side.

    Returns:
        Jobs by name.
    """
    vertices, faces = mesh.vertices.detach().requires_grad_(), mesh.faces
    caster, lines = RayCaster(vertices, faces), pixel_rays(*view, size)
    face = caster.visible_faces(*view, size)
    normals = mesh.vertex_normals().detach()
    flat = interpolate(visible_fragments(face, vertices.detach(), faces, *lines), faces, normals)
    loss = render(Mesh(vertices, faces), view, size).square().sum()
    jobs = {
        "hierarchy": lambda: RayCaster(vertices, faces),
        "visibility": lambda: caster.first_hits(*lines),
        "shading": lambda: interpolate(visible_fragments(face, vertices, faces, *lines), faces, normals),
        "outlines": lambda: antialias(flat, silhouettes(Mesh(vertices, faces), *view, size, caster)),
        "backward": lambda: torch.autograd.grad(loss, vertices, retain_graph=True),
        "whole render and backward": lambda: torch.autograd.grad(
            render(Mesh(vertices, faces), view, size).square().sum(), vertices
        ),
    }
    if len(lines[0]) * len(faces) <= FEASIBLE and vertices.device.type == "cpu":
        reference = BruteForceCaster(vertices, faces)
        jobs["visibility by brute force"] = lambda: reference.first_hits(*lines)
    return jobs


def geometry_step(surface: DMTet, views: int, size: int) -> Callable[[], object]:
    """One step of an optimizer on a surface, without guidance.

    Args:
        surface: Is changed by every call.
        views: Rendered per step.
        size: Pixels per side.

    Returns:
        The step.
    """
    optimizer = torch.optim.Adam(surface.parameters(), 1e-4)
    orbit = turntable(views)
    view = orbit.camera_to_world().to(surface.sdf), orbit.fovy.to(surface.sdf)

    def step() -> None:
        mesh = surface.extract()
        loss = render(mesh, view, size).square().mean() + mesh.normal_consistency() + mesh.laplacian()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main(args: list[str] | None = None) -> None:
    """Prints a table for each mesh and image size, and the times of whole geometry steps.

    Args:
        args: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512], help="pixels (default: %(default)s)")
    parser.add_argument("--grids", type=int, nargs="+", default=[22, 70], help="of the meshes (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[48, 64], help="grids of the steps (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=10, help="repetitions (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU (default: all)")
    options = parser.parse_args(args)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    orbit = turntable(1)
    view = orbit.camera_to_world().to(options.device), orbit.fovy.to(options.device)
    for resolution in options.grids:
        mesh = ball(resolution, options.device).extract()
        for size in options.sizes:
            jobs = parts(mesh, view, size)
            times = dict(zip(jobs, interleaved(list(jobs.values()), options.repeats, options.device), strict=True))
            backend = RayCaster(mesh.vertices, mesh.faces).backend
            print(f"{len(mesh.faces)} faces, {size} x {size} pixels, {backend}, medians (quartiles)")
            for name, values in times.items():
                row(name, values)
            if slow := times.get("visibility by brute force"):
                fast = [a + b for a, b in zip(times["hierarchy"], times["visibility"], strict=True)]
                row("brute force over hierarchy and query", [s / f for s, f in zip(slow, fast, strict=True)], "", 1.0)
    for resolution in options.steps:
        for size in (64, 128):
            job = geometry_step(ball(resolution, options.device), 4, size)
            (values,) = interleaved([job], options.repeats, options.device)
            row(f"geometry step, grid {resolution}, 4 views of {size}", values)


if __name__ == "__main__":
    main()
