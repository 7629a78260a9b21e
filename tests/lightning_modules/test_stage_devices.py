"""Steps of the NeRF and texture stages by Lightning on a device that is not the CPU, and the waits of the host."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from stand_in import StandIn
from torch import nn

from datamodules.random_cameras import CameraDistribution, Milestone, RandomCameras
from lightning_modules.cli import silence
from lightning_modules.nerf import FieldSettings, NerfParticle, NerfStage
from lightning_modules.regularisers import Regularisers
from lightning_modules.texture import TexturedMesh, TextureStage
from scene import mesh_rendering, rasterizer, silhouettes
from scene.mesh import Mesh
from vsd.embeddings import embed
from vsd.guidance import VSDGuidance
from vsd.prior import DiffusionPrior
from vsd.timesteps import Timesteps

pytestmark = pytest.mark.filterwarnings("ignore:Total length of")  # which Lightning reads from the device
FIELD = FieldSettings(encoding="hash", hidden=8, occupancy=8, samples=16, density_noise=1.0)
STEPS = 3


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


LOSSES = Regularisers(sparsity=1.0, opaque=1.0, opaque_from=1, entropy_bins=4, z_variance=1.0)
BUILD = {
    "nerf": lambda: NerfStage(2, 1, FIELD, LOSSES),
    "texture": lambda: Texture("", particles=2, eval_background=1.0),
}


class Watch(pl.Callback):
    """Keeps the waits of every step, and stops the run before what needs values.

    Args:
        device: The stand-in.
    """

    def __init__(self, device):
        self.device, self.waits, self.before = device, [], 0

    def on_train_batch_start(self, *_):
        self.before = len(self.device.waits)

    def on_train_batch_end(self, *_):
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
    """Fits a stage on the stand-in; returns it, its trainer, the stand-in and the waits of every step."""
    for module in (mesh_rendering, rasterizer, silhouettes):
        monkeypatch.setattr(module, "RayCaster", Seen)
    monkeypatch.setattr("lightning_modules.texture.RayCaster", Seen)
    monkeypatch.setattr(pl.accelerators.CPUAccelerator, "setup_device", lambda *_: None)  # which refuses others

    def fit(name, device):
        silence()
        stage, watch = BUILD[name](), Watch(device)
        stage.on_fit_end = lambda: None  # pictures and exports of values that there are none of
        run = pl.Trainer(
            strategy=SingleDeviceStrategy(torch.device("meta")), max_steps=STEPS, default_root_dir=tmp_path,
            callbacks=[VSDGuidance("a red car", Timesteps(10), model=texts), watch], logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
            limit_val_batches=0, check_val_every_n_epoch=None,
        )  # fmt: skip
        monkeypatch.setattr(VSDGuidance, "on_fit_end", lambda *_: None)
        ranges = CameraDistribution(distance=(2.1, 2.5), fovy=(36, 44))
        cameras = RandomCameras(ranges, [Milestone(0, 16, 2)], 2, 1, eval_distance=2.3, eval_resolution=16)
        run.fit(stage, cameras)
        return stage, run, watch.waits, cameras

    return fit


# Measured: numbers of samples, of pixels that see a face, and of crossings at outlines; none is the guidance's.
@pytest.mark.parametrize(("name", "most"), [("nerf", 4), ("texture", 17)])
def test_a_step_keeps_to_its_device_and_waits_for_sizes_alone(fitted, name, most):
    with StandIn() as device:
        _, _, waits, _ = fitted(name, device)
    assert len(waits) == STEPS
    assert all(len(step) <= most for step in waits[1:])
    files = {wait.split(": ")[1].split(":")[0] for step in waits[1:] for wait in step}
    assert not files & {"guidance.py", "score_trainer.py", "score_distillation.py", "stage.py"}
