"""How far a run is: a bar in a terminal, elsewhere one line per 10 %, both over all stages of a run of `dream`.

Both tell the particle, the phase (SDS until phi is trained, then VSD), phi's health and the time left of the whole run.
"""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import ProgressColumn, Task, TextColumn
from rich.text import Text
from typing_extensions import override

from common.checks import require_range
from lightning_modules.run.place import Place, place
from lightning_modules.run.time_left import Part, TimeLeft


def progress() -> ProgressBar:
    """The bar for a terminal, the lines for anything else; nothing where the run is to be quiet."""
    bar = StepBar() if sys.stdout.isatty() else StepLines()
    if place().quiet:
        bar.disable()
    return bar


class Progress:
    """How far a run is, in words.

    Args:
        stage: A stage, which has `order` and `guidances`.
        trainer: That trains it.
        here: Where the stage stands.
    """

    def __init__(self, stage: pl.LightningModule, trainer: pl.Trainer, here: Place):
        self.stage, self.trainer, self.here = stage, trainer, here
        self.clock = TimeLeft(parts(stage, trainer), here.after)
        self.total = here.before + self.clock.total + sum(part.steps for part in here.after)
        self.clock.begin(trainer.global_step, time.monotonic())

    @property
    def done(self) -> int:
        """Steps of all stages that are done."""
        return self.here.before + self.clock.done

    def advance(self) -> None:
        """Counts the step that has just ended."""
        self.clock.advance(self.trainer.global_step, time.monotonic())

    def now(self) -> list[str]:
        """What the last step has done: number, particle and phase."""
        chosen, particle_step = self.stage.order(self.clock.done - 1)
        words = [f"step {self.clock.done}/{self.clock.total}"]
        if self.stage.order.n > 1:
            several = "s" if len(chosen) > 1 else ""
            words += [f"particle{several} {', '.join(map(str, chosen))} of {self.stage.order.n}"]
        phases = dict.fromkeys(phase(guidance, particle_step) for guidance in self.stage.guidances)
        return [*words, " + ".join(phases)] if phases else words

    def speed(self) -> list[str]:
        """Steps per second and the time left."""
        return [f"{1 / self.clock.speed:.2f} steps/s", self.clock.words()]

    def metrics(self) -> list[str]:
        """The stage's metrics for people and phi's health; waits for the device."""
        found = {name.removeprefix("train/"): value for name, value in self.trainer.progress_bar_metrics.items()}
        for guidance in self.stage.guidances:
            if guidance.trainer is not None:
                found |= guidance.core.health.figures()  # of the last of several guidances with phi
        return [f"{name} {float(value):.3g}" for name, value in found.items()]


def phase(guidance: Any, particle_step: int) -> str:
    """How a guidance moves a particle, such as "VSD".

    Args:
        guidance: A VSDGuidance.
        particle_step: Steps that the particle has made before.
    """
    warm = guidance.trainer is not None and particle_step < guidance.score.warm_start
    return "SDS" if warm else guidance.kind.upper()


def parts(stage: pl.LightningModule, trainer: pl.Trainer) -> list[Part]:
    """The parts of a stage: they end where phi enters the guidance and where the cameras' resolution changes.

    Args:
        stage: A stage.
        trainer: That trains it.
    """
    total = trainer.max_steps
    starts = [stage.order.step_after(g.score.warm_start) for g in stage.guidances if g.trainer is not None]
    cuts = starts + [milestone.step for milestone in getattr(trainer.datamodule, "milestones", [])]
    ends = sorted({cut for cut in cuts if 0 < cut < total} | {total})
    return [
        Part(end - before, any(start <= before for start in starts))
        for before, end in zip([0, *ends], ends, strict=False)
    ]


class RunColumn(ProgressColumn):
    """The words beside a bar: those of the run beside that of training, the count beside the others.

    Args:
        bar: The callback.
    """

    def __init__(self, bar: "StepBar"):
        self.bar = bar
        super().__init__()

    @override
    def render(self, task: Task) -> Text:
        if task.id == self.bar.train_progress_bar_id:
            return Text("  ".join(self.bar.words), overflow="fold")
        return Text(f"{int(task.completed)}/{task.total:.0f}")


class StepBar(RichProgressBar):
    """One bar over the steps of all stages; that of a stage which others follow vanishes when it has ended.

    The metrics beside it are fetched once a second at most, since each fetch waits for the device.
    """

    def __init__(self):
        colours = RichProgressBarTheme(progress_bar="cyan", progress_bar_finished="cyan")  # Lightning's are dark
        super().__init__(refresh_rate=10, leave=True, theme=colours)
        self.here = place()
        self.run: Progress | None = None
        self.words: list[str] = []
        self._metrics: list[str] = []
        self._fetched = 0.0

    @override
    def configure_columns(self, trainer: pl.Trainer) -> list:
        description, bar, *_ = super().configure_columns(trainer)
        return [description, bar, TextColumn("{task.percentage:>3.0f} %"), RunColumn(self)]

    def _init_progress(self, trainer: pl.Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = self.here.number < self.here.stages

    @property
    @override
    def total_train_batches(self) -> int | float:
        return self.run.total if self.run is not None else super().total_train_batches

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        return {}  # RunColumn shows them

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.run = Progress(pl_module, trainer, self.here)
        super().on_train_start(trainer, pl_module)

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *more: Any) -> None:
        self.run.advance()
        if self.is_enabled:
            if time.monotonic() - self._fetched > 1:
                self._metrics, self._fetched = self.run.metrics(), time.monotonic()
            self.words = [*self.run.now(), *self.run.speed(), *self._metrics]
        outputs, batch, _ = more
        super().on_train_batch_end(trainer, pl_module, outputs, batch, self.run.done - 1)

    @property
    @override
    def test_description(self) -> str:
        return "turntable"

    @property
    @override
    def predict_description(self) -> str:
        return "camera path"

    def _get_train_description(self, current_epoch: int) -> str:
        return self.here.words or "Training  "  # as long as "Validation"


class StepLines(ProgressBar):
    """Prints a line now and then, without a bar and without carriage returns, as a log wants it.

    Args:
        percent: Of all steps between two lines, in 1 ... 100.

    Raises:
        InputError: `percent` is impossible.
    """

    def __init__(self, percent: int = 10):
        super().__init__()
        require_range("percent", percent, 1, 100)
        self.percent, self.enabled = percent, True

    @override
    def disable(self) -> None:
        self.enabled = False

    @override
    def enable(self) -> None:
        self.enabled = True

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.run = Progress(pl_module, trainer, place())
        self.told = self._count()

    def _count(self) -> int:
        """Lines that are due by now."""
        return 100 * self.run.done // (self.percent * self.run.total)

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.run.advance()
        if not self.enabled or self._count() == self.told:
            return
        self.told = self._count()
        words = [f"{100 * self.run.done // self.run.total:3d} %", self.run.here.words, *self.run.now()]
        words += [*self.run.metrics(), *self.run.speed()]
        print("  ".join(filter(None, words)), flush=True)

    @override
    def on_test_start(self, *_: Any) -> None:
        if self.enabled:
            print("rendering the turntable", flush=True)

    @override
    def on_predict_start(self, *_: Any) -> None:
        if self.enabled:
            print("rendering the camera path", flush=True)
