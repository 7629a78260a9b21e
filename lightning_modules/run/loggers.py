"""Where numbers, pictures and videos of a run are shown: metrics.csv, and the loggers that can show them."""

import csv
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from typing_extensions import override

from common.files import atomic_write


class MetricsFile(Logger):
    """Appends metrics to metrics.csv, one row per call, with the trainer's step as a column.

    A resumed run continues its file. (Lightning's CSVLogger deletes the file of a run that it finds, or starts another
    beside it.)

    Args:
        save_dir: Folder of the file; a relative one lies in the run folder.
    """

    def __init__(self, save_dir: str = "."):
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.columns: list[str] = []

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self.path.parent)

    @override
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass  # the configuration lies beside the file, in config.yaml

    @override
    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step} | {name: float(value) for name, value in metrics.items()}
        if not self.columns or not row.keys() <= set(self.columns):
            rows = self._rows()
            self.columns = list(dict.fromkeys([*(rows[0] if rows else ()), *self.columns, *row]))
            self._write(rows, "w", header=True)
        self._write([row], "a")

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Removes the rows of a step and all later ones, which a resumed run repeats.

        Args:
            step: The trainer's step at which the run resumes.
        """
        rows = self._rows()
        if any(int(row["step"]) >= step for row in rows):
            self.columns = list(rows[0])
            self._write([row for row in rows if int(row["step"]) < step], "w", header=True)

    def _rows(self) -> list[dict]:
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            # A kill can leave half a line.
            return [row for row in csv.DictReader(file) if None not in row.values() and row.get("step", "").isdigit()]

    def _write(self, rows: list[dict], mode: str, header: bool = False) -> None:
        whole = mode == "w"
        with atomic_write(self.path) if whole else nullcontext(self.path) as path, open(path, mode, newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if header:
                writer.writeheader()
            writer.writerows(rows)


def show_file(loggers: list[Logger], key: str, path: Path, step: int) -> None:
    """Shows a file in the loggers that show files of its kind.

    Args:
        loggers: The trainer's.
        key: Its name there.
        path: Of an MP4 video, a GLB mesh, or else a picture.
        step: The trainer's.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            if path.suffix == ".mp4":
                logger.log_video(key, [str(path)], step, format=["mp4"])
            elif path.suffix == ".glb":
                import wandb  # takes a second

                logger.log_metrics({key: wandb.Object3D(str(path))}, step)
            else:
                logger.log_image(key, [str(path)], step)
        elif isinstance(logger, TensorBoardLogger) and path.suffix not in (".mp4", ".glb"):
            with Image.open(path) as picture:
                logger.experiment.add_image(key, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
