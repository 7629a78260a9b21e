"""The stages by Lightning on a device that is not the CPU, and how often the host waits for it.

A run of the CPU leaves a checkpoint, from which one on the device resumes, validates, saves and draws turntables.
"""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from stand_in import StandIn
from torch import nn

from datamodules.random_cameras import CameraDistribution, Milestone, RandomCameras
from lightning_modules import geometry
from lightning_modules.cli import silence
from lightning_modules.geometry import GeometryStage, SurfaceLosses
from lightning_modules.image import ImageStage
from lightning_modules.nerf import FieldSettings, NerfParticle, NerfStage
from lightning_modules.regularisers import Regularisers
from lightning_modules.run.folder import LAST
from lightning_modules.run.saving import LastCheckpoint
from lightning_modules.texture import TextureStage
from lightning_modules.textured_mesh import TexturedMesh
from scene import mesh_rendering, rasterizer, silhouettes
from scene.iso_surface import Start
from scene.mesh import Mesh
from scene.tetrahedra import DMTet
from vsd.embeddings import embed
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior
from vsd.score_trainer import ScoreSettings
from vsd.timesteps import Timesteps

pytestmark = [
    pytest.mark.filterwarnings("ignore:Total length of"),  # which Lightning reads from the device
    pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter"),  # the device has no values
]
FIELD = FieldSettings(encoding="hash", hidden=8, occupancy=8, samples=16, density_noise=1.0)
STEPS = 2


class Seen:
    """Stands for warp, which knows real devices alone: every ray meets a face."""

    backend = "none"

    def __init__(self, vertices, faces):
        assert vertices.is_meta and faces.is_meta
        self.device = vertices.device

    def visible_faces(self, camera_to_world, fovy, size):
        assert camera_to_world.is_meta and fovy.is_meta
        return torch.empty(len(fovy), size, size, dtype=torch.long, device=self.device)

    def first_hits(self, origins, directions):
        assert origins.is_meta and directions.is_meta
        return torch.empty(len(origins), dtype=torch.long, device=self.device), torch.empty_like(origins[:, 0])


class Texture(TextureStage):
    """Starts from nothing that has been trained, on a tetrahedron."""

    def configure_model(self):
        faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        mesh = Mesh(torch.cat([torch.zeros(1, 3), torch.eye(3)]), faces)
        self.particles = nn.ModuleList(TexturedMesh(mesh, NerfParticle(FIELD)) for _ in range(self.order.n))


def ball(nerf, *_):
    """Stands for the search of a NeRF's surface, which reads values."""
    surface = DMTet(4).to(nerf.renderer.occupancy.occs.device)
    surface.initialise(lambda points: 0.6 - points.norm(dim=1))
    return Start(surface, 1.0, 1.0)


LOSSES = Regularisers(sparsity=1.0, opaque=1.0, opaque_from=1, entropy_bins=4, z_variance=1.0)
SURFACE = SurfaceLosses(opacity=1.0, vertex_consistency=1.0)
BUILD = {
    "image": lambda: ImageStage(particles=2, particles_per_step=2),
    "nerf": lambda: NerfStage(2, 1, FIELD, LOSSES),
    "geometry": lambda: GeometryStage("", 2, 1, 4, "colour", SURFACE, random_background=0.5),
    "texture": lambda: Texture("", particles=2, eval_background=1.0),
}


class Watch(pl.Callback):
    """Keeps the waits of every step.

    Args:
        device: The stand-in; None for the CPU.
    """

    def __init__(self, device):
        self.device, self.waits, self.before = device, [], 0

    def on_train_batch_start(self, *_):
        self.before = len(self.device.waits) if self.device else 0

    def on_train_batch_end(self, *_):
        if self.device:
            self.waits.append(self.device.waits[self.before :])


@pytest.fixture(scope="module")
def texts(untrained_prior):
    """The cache of embeddings, as a run's first one leaves it."""
    silence()
    prompts = VSDGuidance("a red car", Timesteps(10)).prompts
    embed(DiffusionPrior.load(str(untrained_prior)), ["a red car", "", *prompts.of_views()])
    return str(untrained_prior)


@pytest.fixture
def fitted(texts, tmp_path, monkeypatch):
    """Fits a stage on the CPU or, from its checkpoint, on the stand-in; returns the trainer and every step's waits."""
    monkeypatch.setattr(pl.accelerators.CPUAccelerator, "setup_device", lambda *_: None)  # which refuses others
    monkeypatch.setattr(geometry, "load_nerfs", lambda *_: [NerfParticle(FIELD).requires_grad_(False)] * 2)
    monkeypatch.setattr(geometry, "first_surface", ball)
    monkeypatch.setattr(VSDGuidance, "on_fit_end", lambda *_: None)

    def fit(name, steps, device=None, checkpoint=None):
        silence()
        if device:
            for module in (mesh_rendering, rasterizer, silhouettes):
                monkeypatch.setattr(module, "RayCaster", Seen)
            monkeypatch.setattr("lightning_modules.textured_mesh.RayCaster", Seen)
        stage, watch = BUILD[name](), Watch(device)
        stage.on_fit_end = lambda: None  # exports of values that there are none of
        guidance = VSDGuidance("a red car", Timesteps(10), model=texts, score=ScoreSettings(replay=2))
        run = pl.Trainer(
            strategy=SingleDeviceStrategy(torch.device("meta" if device else "cpu")), max_steps=steps,
            default_root_dir=tmp_path, callbacks=[guidance, watch, LastCheckpoint()], logger=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            limit_val_batches=1 if device else 0, val_check_interval=1, check_val_every_n_epoch=None,
            limit_test_batches=2, inference_mode=False,
        )  # fmt: skip
        ranges = CameraDistribution(distance=(2.1, 2.5), fovy=(36, 44))
        cameras = RandomCameras(ranges, [Milestone(0, 16, 2)], 2, 1, eval_distance=2.3, eval_resolution=16)
        flat = name == "image"
        run.fit(stage, None if flat else cameras, ckpt_path=checkpoint)
        if device and not flat:
            run.test(stage, cameras)
        return run, watch.waits

    return fit


# Measured: numbers of samples, of pixels that see a face, and of crossings at outlines; none is the guidance's.
@pytest.mark.parametrize(("name", "most"), [("image", 0), ("nerf", 4), ("geometry", 18), ("texture", 6)])
def test_a_run_keeps_to_its_device_and_waits_for_sizes_alone(fitted, tmp_path, name, most):
    fitted(name, 1)
    with StandIn() as device:
        run, waits = fitted(name, 1 + STEPS, device, tmp_path / LAST)
    assert run.global_step == 1 + STEPS and len(waits) == STEPS
    assert all(len(step) <= most for step in waits[1:]), waits[-1]
    files = {wait.split(": ")[1].split(":")[0] for step in waits[1:] for wait in step}
    assert not files & {"guidance.py", "score_trainer.py", "score_distillation.py", "stage.py"}
    saved = torch.load(tmp_path / LAST, weights_only=True)
    assert saved["global_step"] == 1 + STEPS
    assert all(tensor.is_meta for tensor in saved["state_dict"].values())
    if name == "image":
        return
    assert (tmp_path / "turntable-particle1.mp4").is_file()
    assert (tmp_path / f"validation/particle0-step{1 + STEPS:06d}.png").is_file()
