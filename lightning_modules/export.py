"""The command `vsd export`.

vsd export RUN [--out FOLDER] [--format glb|obj|ply] [--faces N] [--texture N] [--views N]

Writes what a run has as files for other programs. RUN is a folder of `dream`, whose last stage is meant, or a run of
the NeRF, geometry or texture stage. Every particle becomes mesh-particleN.FORMAT. With --views, pictures from N sides
go to views-particleN/, with their cameras in transforms.json, as nerfstudio and its relatives read it: the world is
z-up, the object's front to +x.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common.checks import require_range
from common.command_line import OneLineArguments, a_path, require_place
from common.errors import InputError
from common.files import atomic_write
from lightning_modules.finished import FinishedParticle, FinishedRun, load_finished
from lightning_modules.run.pictures import save_picture
from lightning_modules.texture import LARGEST_TEXTURE
from lightning_modules.textured_mesh import about
from scene.cameras import Cameras, Orbit
from scene.decimation import decimate
from scene.export import write_glb, write_obj, write_ply
from scene.mesh import MeshError
from scene.mesh_rendering import render_mesh
from scene.texture import bake, unwrap

FORMATS = ("glb", "obj", "ply")
LOWEST, HIGHEST = -20.0, 70.0  # elevations of the pictures, degrees
FACES = 50_000  # at most of a NeRF's mesh, whose hundreds of thousands would take xatlas many minutes
GOLDEN = 137.508  # degrees of azimuth between two of them, which spreads any number of them evenly


def write_mesh(
    run: FinishedRun, index: int, folder: Path, kind: str = "glb", faces: int | None = None, texture: int | None = None
) -> list[Path]:
    """Writes a particle's mesh.

    Args:
        run: The run.
        index: Of the particle.
        folder: Where to.
        kind: One of FORMATS.
        faces: At most, None for all, or FACES of a NeRF.
        texture: Texels of the image's side, None for those of the stage, or 1024.

    Returns:
        The files, the mesh first.

    Raises:
        MeshError: The mesh cannot be decimated or unwrapped.
        OSError: A file cannot be written.
    """
    particle = run.particles[index]
    if faces is None and particle.nerf is not None:
        faces = FACES
    mesh = particle.mesh if faces is None else decimate(particle.mesh, faces)
    path = folder / f"mesh-particle{index}.{kind}"
    words = about(run.prompt, run.seed, index, len(run.particles), mesh.is_watertight)
    if kind == "ply":
        with torch.no_grad():
            colours = particle.colour(mesh.vertices)
        return [write_ply(path, mesh.vertices, mesh.faces, colours, particle.placement, words)]
    size = texture or run.texture_size or 1024
    kept = particle.atlas is not None and mesh is particle.mesh
    atlas = particle.atlas(size) if kept else unwrap(mesh.vertices, mesh.faces, size)
    files = mesh.vertices, atlas, bake(mesh.vertices, atlas, particle.colour), particle.placement, words
    return write_obj(path, *files) if kind == "obj" else [write_glb(path, *files)]


def view_cameras(views: int, distance: float, fovy: float, size: int) -> Cameras:
    """Cameras spread over all sides.

    Args:
        views: Their number.
        distance: From the origin, world units.
        fovy: Vertical field of view, degrees.
        size: Pixels of a side.
    """
    low, high = np.sin(np.deg2rad([LOWEST, HIGHEST]))
    heights = low + (high - low) * (torch.arange(views) + 0.5) / views
    azimuth, elevation = torch.arange(views) * GOLDEN % 360, torch.rad2deg(torch.asin(heights))
    orbit = Orbit(azimuth, elevation, torch.full((views,), float(distance)), torch.full((views,), float(fovy)))
    return orbit.cameras(size)


@torch.no_grad()
def pictures(particle: FinishedParticle, cameras: Cameras) -> Iterator[torch.Tensor]:
    """What cameras see of a particle.

    Args:
        particle: What is seen.
        cameras: B cameras of S x S pixels.

    Yields:
        (S, S, 4) in [0, 1], colour and opacity, the colour not multiplied with it.
    """
    size = cameras.resolution
    for i in range(len(cameras)):
        one = cameras[i : i + 1]
        if particle.nerf is not None:
            out = particle.nerf.renderer(particle.nerf.field, *one.rays())
            colour, cover = out.rgb.view(size, size, 3), out.opacity.view(size, size, 1)
        else:
            out = render_mesh(particle.mesh, one, particle.colour)
            colour, cover = out.colour[0], out.coverage[0]
        yield torch.cat([(colour / cover.clamp(min=1e-6)).clamp(0, 1), cover.clamp(0, 1)], -1)


def write_views(run: FinishedRun, index: int, folder: Path, views: int, size: int) -> Path:
    """Writes pictures of a particle and their cameras, in nerfstudio's format.

    Args:
        run: The run.
        index: Of the particle.
        folder: Where to; views-particleN is created in it.
        views: Number of pictures.
        size: Pixels of a side.

    Returns:
        transforms.json, which is written last.
    """
    folder = folder / f"views-particle{index}"
    cameras = view_cameras(views, run.distance, run.fovy, size)
    frames = []
    for i, picture in enumerate(pictures(run.particles[index], cameras)):
        name = f"images/{i:04d}.png"
        save_picture(picture, folder / name)
        frames.append({"file_path": name, "transform_matrix": cameras.camera_to_world[i].tolist()})
    focal = 0.5 * size / np.tan(np.deg2rad(run.fovy) / 2)
    lens = {"w": size, "h": size, "fl_x": focal, "fl_y": focal, "cx": size / 2, "cy": size / 2}
    tree = {"camera_model": "OPENCV", **lens, "prompt": run.prompt, "frames": frames}
    with atomic_write(folder / "transforms.json") as part:
        part.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    return folder / "transforms.json"


def parse(args: list[str] | None) -> argparse.Namespace:
    """Parses the command line.

    Args:
        args: Arguments of the command, None for the program's.

    Raises:
        InputError: The arguments are impossible.
    """
    parser = OneLineArguments(
        prog="vsd export", description=__doc__.split("\n\n", 2)[2], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=a_path, metavar="RUN", help="a folder of dream, or a run of a 3D stage")
    parser.add_argument("--out", type=a_path, metavar="FOLDER", help="where to (default: RUN/export)")
    parser.add_argument("--format", choices=FORMATS, default="glb", help="of the meshes (default: %(default)s)")
    parser.add_argument("--faces", type=int, metavar="N", help=f"at most (default: all, {FACES} of a NeRF)")
    parser.add_argument("--texture", type=int, metavar="N", help="texels of the image's side (default: the run's)")
    parser.add_argument("--views", type=int, default=0, metavar="N", help="pictures of each particle (default: none)")
    parser.add_argument("--size", type=int, default=512, metavar="N", help="their pixels per side (%(default)s)")
    parser.add_argument(
        "--resolution", type=int, default=64, metavar="N", help="cells of a NeRF's surface (default: %(default)s)"
    )
    options = parser.parse_args(args)
    require_range("--faces", options.faces, 4, 10**9)
    require_range("--texture", options.texture, 16, LARGEST_TEXTURE)
    require_range("--views", options.views, 0, 10_000)
    require_range("--size", options.size, 1, 8192)
    require_range("--resolution", options.resolution, 3, 512)
    if options.out is not None:
        require_place("--out", options.out)
    return options


def main(args: list[str] | None = None) -> None:
    """Runs the command and prints the files; exits with 2 and one line when an input is wrong.

    Args:
        args: Arguments of the command, None for the program's.
    """
    try:
        options = parse(args)
        run = load_finished(options.run, options.resolution)
        out = options.out or options.run / "export"
        for index in range(len(run.particles)):
            files = write_mesh(run, index, out, options.format, options.faces, options.texture)
            if options.views:
                files.append(write_views(run, index, out, options.views, options.size))
            for file in files:
                print(os.path.relpath(file), flush=True)
    except (InputError, MeshError, OSError) as error:
        words = " ".join(str(error).split())
        print(f"vsd export: {words[:500]}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("vsd export: interrupted", file=sys.stderr)
        sys.exit(130)
