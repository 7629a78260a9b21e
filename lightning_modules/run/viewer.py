"""The live view: a page on this machine on which one sees a particle from any side while it trains, and steers.

Pictures are rendered between two steps by the thread that trains, and only while somebody looks. They take no more than
a given fraction of the time. Nothing of the training's random numbers is drawn for them, so that a run that nobody
steers ends with the same particles, bit by bit, as one without a viewer.
"""

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from typing_extensions import override

from common.checks import require_range
from common.pixels import to_uint8
from lightning_modules.run.heartbeat import moved
from lightning_modules.run.live_panel import Panel, cameras_of, show
from lightning_modules.run.pictures import finished, save_picture, turntable_frame
from lightning_modules.run.place import place
from lightning_modules.run.progress import Progress, StepBar, StepLines
from lightning_modules.run.stopping import stopping
from scene.cameras import turntable

TOGETHER = 10  # steps after which several ranks agree on what the first one has been asked for
PAUSE = 0.02  # seconds between looks at what people ask for, while training waits
TELL = 0.5  # seconds between words about how far training is


class Viewer(pl.Callback):
    """Shows the particles on a page while they train, and does what people ask for there.

    Pause, scale of the guidance and snapshots, which lie in the run folder as snapshots/*.png. With several ranks the
    first one serves the page, and shows the particles that it renders itself.

    Args:
        port: Of the page, or the next one that is free, in 1024 ... 65535.
        size: Pixels of a picture's side, in 16 ... 2048; None for data.eval_resolution.
        fraction: Largest fraction of the time that pictures take while somebody looks, in 0.01 ... 1.

    Raises:
        InputError: An option is impossible.
    """

    def __init__(self, port: int = 8080, size: int | None = None, fraction: float = 0.25):
        require_range("viewer.port", port, 1024, 2**16 - 1)
        require_range("viewer.size", size, 16, 2048)
        require_range("viewer.fraction", fraction, 0.01, 1)
        self.port, self.size, self.fraction = port, size, fraction
        self.panel: Panel | None = None
        self.drawn: dict[int, tuple] = {}  # what each of those who look has seen last
        self.due = self.told = 0.0  # when the next picture may be rendered, and when words were said

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.guidances = guided(pl_module)
        if not trainer.is_global_zero:
            return
        data, self.run = trainer.datamodule, Progress(pl_module, trainer, place())
        orbit = turntable(1)
        if hasattr(data, "eval_resolution"):
            self.size = self.size or data.eval_resolution
            orbit = turntable(1, data.eval_elevation, data.eval_distance, data.eval_fovy)
        self.size = self.size or 256
        scales = {label: guidance.core.scale for label, guidance in self.guidances.items()}
        folder = pl_module.run_folder
        name = place().name or type(pl_module).__name__.removesuffix("Stage").lower()
        self.panel = Panel(self.port, name, finished(folder), pl_module.order.rendered, scales, orbit)
        print(f"live view: {self.panel.address}", flush=True)

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.panel is not None:
            self.run.advance()
            self.serve(pl_module)
        if trainer.world_size == 1 or trainer.global_step % TOGETHER == 0:
            self.obey(trainer, pl_module)

    def obey(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        """Does what was asked for on the page of the first rank: sets scales, and waits. All ranks must call it.

        Args:
            trainer: That trains.
            stage: That it trains.
        """
        begun = None  # of a pause
        while True:
            moved(trainer)  # a pause is no stall
            asked = None if self.panel is None else (self.panel.scales, self.panel.paused)
            scales, paused = trainer.strategy.broadcast(asked)
            self.set_scales(scales, trainer)
            if not paused or trainer.strategy.reduce_boolean_decision(stopping(trainer), all=False):
                break
            begun = begun or time.monotonic()
            if self.panel is not None:
                self.wait(trainer, stage)
        if begun is not None and self.panel is not None:
            self.run.clock.skip(time.monotonic() - begun)
            if isinstance(trainer.progress_bar_callback, StepBar | StepLines):
                trainer.progress_bar_callback.run.clock.skip(time.monotonic() - begun)

    def wait(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        """Shows what people look at while training waits: for ever on one rank, for a second where others wait too.

        Args:
            trainer: That waits.
            stage: That is shown.
        """
        end = time.monotonic() + 1 if trainer.world_size > 1 else math.inf
        while self.panel.paused and time.monotonic() < end and not stopping(trainer):
            self.serve(stage, paused=True)
            time.sleep(PAUSE)

    def set_scales(self, scales: dict[str, float], trainer: pl.Trainer) -> None:
        """Sets the scales of the guidances.

        Args:
            scales: By what the guidances are called.
            trainer: That trains.
        """
        for label, scale in scales.items():
            core = self.guidances[label].core
            if core.scale != scale:
                if trainer.is_global_zero:
                    words = f"live view: scale of {label} {core.scale:g} -> {scale:g} at step {trainer.global_step}"
                    print(f"{words}; a resumed run has that of its configuration", flush=True)
                core.scale = scale

    def serve(self, stage: pl.LightningModule, paused: bool = False) -> None:
        """Shows those who look what they have not seen yet, as far as the time allows it.

        Args:
            stage: That trains.
            paused: Whether training waits.
        """
        clients = self.panel.clients()
        if not clients:
            return
        while not self.panel.asked.empty():
            self.snapshot(stage, clients.get(self.panel.asked.get()))
        now = time.monotonic()
        if now - self.told > TELL:
            self.told = now
            self.panel.tell(self.words(paused))
        if now < self.due and not paused:
            return
        step = self.run.clock.done
        # Whoever has waited longest comes first.
        for number in sorted(clients, key=lambda n: self.drawn.get(n, (0.0,))[0]):
            client, panel = clients[number], self.panel
            asked = client.camera.update_timestamp, panel.particle, panel.column, panel.turntables, step
            if self.drawn.get(number, ())[1:] == asked:
                continue
            show(client, self.picture(stage, client))
            end = time.monotonic()
            self.drawn[number] = end, *asked
            self.due = end + (end - now) * (1 / self.fraction - 1)
            return

    def words(self, paused: bool) -> list[str]:
        """How far training is.

        Args:
            paused: Whether it waits.
        """
        first = "**paused**" if paused else "**training**"
        here = self.run.here.words
        return [f"{first} {here}", *self.run.now(), *([] if paused else self.run.speed()), *self.run.metrics()]

    def picture(self, stage: pl.LightningModule, client: Any) -> Tensor:
        """What somebody looks at, (S, S, 3), uint8, on the CPU.

        Args:
            stage: That trains.
            client: Who looks.
        """
        panel, cameras = self.panel, cameras_of(client.camera, self.size, stage.device)
        if panel.turntables is not None:
            image = turntable_frame(panel.turntables, panel.particle, float(cameras.azimuth))
        else:
            with torch.no_grad(), stage.trainer.precision_plugin.val_step_context():
                image = to_uint8(stage.picture(panel.particle, cameras)).cpu()
        side = len(image)
        column = min(panel.column, image.shape[1] // side - 1)
        return image[:, column * side : (column + 1) * side]

    def snapshot(self, stage: pl.LightningModule, client: Any) -> None:
        """Writes what somebody looks at into the run folder.

        Args:
            stage: That trains.
            client: Who looks; None where nobody does any more.
        """
        if client is None:
            return
        stem, number = f"particle{self.panel.particle}-step{self.run.clock.done:06d}", 1
        path = stage.run_folder / "snapshots" / f"{stem}.png"
        while path.exists():
            number += 1
            path = path.with_name(f"{stem}-{number}.png")
        save_picture(self.picture(stage, client), path)
        client.add_notification("Snapshot", f"snapshots/{path.name}", auto_close_seconds=5)
        print(f"live view: snapshots/{path.name}", flush=True)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.close()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Ends the page."""
        if self.panel is not None:
            self.panel.close()
            self.panel = None


def guided(stage: pl.LightningModule) -> dict[str, Any]:
    """The guidances of a stage that have a scale, by what they are called on the page.

    Args:
        stage: Has `guidances`.
    """
    found = [guidance for guidance in stage.guidances if guidance.kind != "csd"]
    names = [guidance.label for guidance in found]
    return {
        f"{name} {i}" if names.count(name) > 1 else name: guidance
        for i, (name, guidance) in enumerate(zip(names, found, strict=True))
    }
