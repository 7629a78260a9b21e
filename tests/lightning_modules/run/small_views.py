"""A stage that needs no prior and somebody who looks at it, for tests of the live view."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import torch

from lightning_modules.particles import RoundRobin
from lightning_modules.run.viewer import Viewer


def ball(cameras):
    """A unit ball at the origin, coloured by its normal, on black; beside it a white square, its "normal"."""
    origins, directions = cameras.rays()
    along = (origins * directions).sum(1)
    root = along.square() - origins.square().sum(1) + 0.25
    points = origins + (-along - root.clamp(min=0).sqrt())[:, None] * directions
    colour = torch.where(root[:, None] > 0, points + 0.5, 0.0).clamp(0, 1)
    size = cameras.resolution
    return torch.cat([colour.view(size, size, 3), torch.ones(size, size, 3)], 1)


class Looker:
    """Somebody who looks from a direction, in the place of viser's client."""

    def __init__(self, number=0):
        self.client_id, self.pictures, self.notes = number, [], []
        self.camera = SimpleNamespace(update_timestamp=1.0, image_width=64, image_height=64, fov=0.7)
        self.camera.wxyz, self.camera.position = np.array([0.5, -0.5, -0.5, 0.5]), np.array([2.5, 0.0, 0.0])
        self.scene = SimpleNamespace(set_background_image=lambda image, *_, **__: self.pictures.append(image))

    def add_notification(self, title, body, **_):
        self.notes.append(body)


class Panel:
    """In the place of the page: nobody looks and nothing is asked for, until a test says so."""

    def __init__(self, port=8080, name="", finished=None, particles=(0,), scales=None, orbit=None):
        self.scales, self.lookers, self.words = dict(scales or {}), [], []
        self.paused, self.particle, self.column, self.turntables = False, 0, 0, None
        self.asked, self.closed, self.address = Asked(), False, f"http://127.0.0.1:{port}"

    def clients(self):
        return {looker.client_id: looker for looker in self.lookers}

    def tell(self, words):
        self.words = words

    def close(self):
        self.closed = True


class Asked(list):
    """A queue."""

    def empty(self):
        return not self

    def get(self):
        return self.pop(0)


def stage_of(folder, scale=7.5):
    """A stage of two particles, its picture a ball, with a guidance; and its trainer."""
    strategy = SimpleNamespace(broadcast=lambda asked: asked, reduce_boolean_decision=lambda one, all: one)
    trainer = SimpleNamespace(
        **{"world_size": 1, "is_global_zero": True, "global_step": 0, "max_steps": 10**6, "datamodule": None},
        **{"strategy": strategy, "received_sigterm": False, "callbacks": [], "progress_bar_callback": None},
        **{"progress_bar_metrics": {}, "precision_plugin": SimpleNamespace(val_step_context=nullcontext)},
    )
    guidance = SimpleNamespace(kind="sds", label="sds", trainer=None, core=SimpleNamespace(scale=scale))
    rendered = []

    def picture(index, cameras):
        rendered.append(index)
        return ball(cameras)

    stage = SimpleNamespace(order=RoundRobin(2, 1), guidances=[guidance], run_folder=folder, picture=picture)
    stage.trainer, stage.device, stage.rendered = trainer, torch.device("cpu"), rendered
    return stage


def viewing(stage, **options):
    """A viewer whose training has begun."""
    viewer = Viewer(**{"size": 32} | options)
    viewer.on_train_start(stage.trainer, stage)
    return viewer


def step(viewer, stage, times=1):
    for _ in range(times):
        stage.trainer.global_step += 1
        viewer.on_train_batch_end(stage.trainer, stage)
