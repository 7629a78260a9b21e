"""Pictures of GLB files by a program that is not ours: three.js in a headless Chromium.

python -m evaluation.view_glb car.glb [more.glb ...] --three node_modules/three [--out view.png]

A turn of eight views per file, azimuth 0 (the front) first: one row shows the texture's colours as they are, one row
the mesh in a white light. `npm install three` makes the folder; Chromium and three.js are needed for nothing else.
"""

import argparse
import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from typing_extensions import override

from common.checks import require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from common.files import atomic_write
from scene.cameras import turntable
from scene.export import to_file_axes

COLUMNS = 8
SECONDS = 120

# An ambient light of intensity pi shows the albedo itself: three.js divides by pi in its diffuse reflection.
PAGE = """<!doctype html><script type="importmap">
{"imports": {"three": "/build/three.module.js", "three/": "/"}}</script>
<script type="module">
import * as THREE from "three";
import { GLTFLoader } from "three/examples/jsm/loaders/GLTFLoader.js";
const { files, cameras, fovy, size } = SETTINGS;
const answer = (kind, body) => fetch("/" + kind, { method: "POST", body });
try {
  const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
  renderer.setSize(size * cameras.length, 2 * size * files.length);
  renderer.setScissorTest(true);
  for (const [i, file] of files.entries()) {
    const { scene } = await new GLTFLoader().loadAsync(file);
    for (const lit of [0, 1]) {
      const world = new THREE.Scene();
      world.background = new THREE.Color(0xffffff);
      world.add(scene, new THREE.AmbientLight(0xffffff, lit ? 1 : Math.PI));
      const sun = new THREE.DirectionalLight(0xffffff, lit ? 2.5 : 0);
      sun.position.set(1, 2, 1.5);
      world.add(sun);
      for (const [k, position] of cameras.entries()) {
        const camera = new THREE.PerspectiveCamera(fovy, 1, 0.1, 100);
        camera.position.set(...position);
        camera.lookAt(0, 0, 0);
        const box = [k * size, (2 * (files.length - i) - 1 - lit) * size, size, size];
        renderer.setViewport(...box);
        renderer.setScissor(...box);
        renderer.render(world, camera);
      }
    }
  }
  renderer.domElement.toBlob((picture) => answer("picture", picture));
} catch (error) { answer("error", String(error)); }
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the page, the GLB files and three.js' folder, and takes the page's answer.

    Args:
        *args: Of SimpleHTTPRequestHandler.
        page: What "/" answers.
        files: What "/0.glb", "/1.glb" ... answer.
        answers: Gets the path and body of what the page posts.
        **kwargs: Of SimpleHTTPRequestHandler.
    """

    def __init__(self, *args, page: bytes, files: list[Path], answers: queue.Queue, **kwargs):
        self.page, self.files, self.answers = page, files, answers
        super().__init__(*args, **kwargs)

    @override
    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name and not re.fullmatch(r"\d+\.glb", name):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "model/gltf-binary" if name else "text/html")
        self.end_headers()
        self.wfile.write(self.files[int(name[:-4])].read_bytes() if name else self.page)

    @override
    def do_POST(self) -> None:
        self.answers.put((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    @override
    def log_message(self, *args) -> None:
        pass


def page(count: int, size: int) -> bytes:
    """The page that draws GLB files.

    Args:
        count: How many.
        size: Pixels of a view's side.

    Returns:
        HTML.
    """
    cameras = turntable(COLUMNS)
    settings = {
        "files": [f"{i}.glb" for i in range(count)],
        "cameras": to_file_axes(cameras.positions().numpy()).tolist(),
        "fovy": float(cameras.fovy[0]),
        "size": size,
    }
    return PAGE.replace("SETTINGS", json.dumps(settings)).encode()


def draw(files: list[Path], three: Path, browser: str, size: int) -> bytes:
    """Lets a browser draw GLB files.

    Args:
        files: The GLB files.
        three: The folder of three.js.
        browser: Chromium's command.
        size: Pixels of a view's side.

    Returns:
        The picture as PNG.

    Raises:
        InputError: A file or a program is missing, or the browser gives no picture.
    """
    if not (three / "build" / "three.module.js").is_file():
        raise InputError(f"--three {three}: three.js is not there; 'npm install three' makes node_modules/three")
    if shutil.which(browser) is None:
        raise InputError(f"--browser {browser}: no such program; install Chromium or name another")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    answers: queue.Queue = queue.Queue()
    handler = partial(Handler, page=page(len(files), size), files=files, answers=answers, directory=str(three))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's sandbox does not run as root
        address = f"http://127.0.0.1:{server.server_port}/"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([browser, *flags, address], **quiet) as process:
            try:
                kind, answer = answers.get(timeout=SECONDS)
            except queue.Empty:
                raise InputError(f"--browser {browser}: no picture after {SECONDS} seconds") from None
            finally:
                process.terminate()
                server.shutdown()
    if kind == "/error":
        raise InputError(f"--browser {browser}: no picture; {answer.decode()}")
    return answer


def main(args: list[str] | None = None) -> None:
    """The command; exits with 2 and one line when an input is wrong.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(
        prog="view_glb", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=a_path, help="GLB files")
    parser.add_argument("--three", type=a_path, required=True, help="three.js' folder, node_modules/three")
    parser.add_argument("--browser", default="chromium", help="Chromium's command (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of a view's side (default: %(default)s)")
    parser.add_argument("--out", type=a_path, default=Path("view.png"), help="picture to write (default: %(default)s)")
    with one_line("view_glb"):
        options = parser.parse_args(args)
        require_range("--size", options.size, 1, 4096)
        require_place("--out", options.out.parent)
        picture = draw(options.files, options.three, options.browser, options.size)
        with atomic_write(options.out) as part:
            part.write_bytes(picture)
    print(options.out)


if __name__ == "__main__":
    main()
