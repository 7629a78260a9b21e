"""Captioned toybox renders for training the toybox prior.

The N renders of a split count as 2 N pictures: picture i + N is the mirror image of picture i.
"""

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from typing_extensions import override

from common.checks import require_range
from common.errors import InputError
from toybox.world.captions import VIEWS, caption, mirrored, training_captions
from toybox.world.objects import COLOURS, OBJECTS
from toybox.world.renders import CameraRanges, Renders, load_renders, random_backgrounds


def labels(renders: Renders, index: torch.Tensor, flip: torch.Tensor | None = None) -> tuple[list, list, list]:
    """The words that hold for renders.

    Args:
        renders: N of them.
        index: (B,) of renders, < N.
        flip: (B,) bool, whether the mirror image is meant; by default never.

    Returns:
        B object words, B colour words, B view words.
    """
    azimuth = renders.cameras.azimuth[index]
    if flip is not None:
        azimuth = torch.where(flip, -azimuth, azimuth)
    view = VIEWS.index(azimuth, renders.cameras.elevation[index])
    names, colours = list(OBJECTS), list(COLOURS)
    return (
        [names[i] for i in renders.name[index]],
        [colours[i] for i in renders.colour[index]],
        [VIEWS.words[i] for i in view],
    )


class TrainingBatches(IterableDataset):
    """Endless batches, each a function of (seed, step, rank) alone, also where several processes prepare them.

    A batch: image (B, 3, S, S) in [-1, 1]; captions, B strings; index (B,), < 2 N, of pictures. The background of a
    render changes from batch to batch.

    Args:
        renders: N of them.
        batch_size: B.
        no_view: Probability of a caption without view words.
        empty: Probability of an empty caption.
        seed: >= 0.
        rank: Of this process among those that train.
        first: Step of the first batch.
        group: Neighbours in a batch that share object and colour, so that a contrastive loss must tell their views
            apart; a divisor of B.
        twins: The second half of a batch are the mirror images of the first, in the same order, with captions that
            say so.
        images: Whether a batch has images.
    """

    def __init__(
        self,
        renders: Renders,
        batch_size: int,
        no_view: float,
        empty: float,
        seed: int,
        rank: int,
        first: int,
        group: int = 1,
        twins: bool = False,
        images: bool = True,
    ):
        self.renders, self.batch_size, self.no_view, self.empty = renders, batch_size // (1 + twins), no_view, empty
        self.seed, self.rank, self.first, self.group, self.twins = seed, rank, first, group, twins
        self.images = images
        kind = renders.name * len(COLOURS) + renders.colour
        self.alike = [torch.nonzero(kind == k)[:, 0] for k in kind.unique()] if group > 1 else []

    def _draw(self, rng: np.random.Generator) -> torch.Tensor:
        """Indices (B,) < 2 N of a batch."""
        if self.group == 1:
            return torch.from_numpy(rng.integers(0, 2 * len(self.renders), self.batch_size))
        groups = []
        for kind in rng.integers(0, len(self.alike), self.batch_size // self.group):
            members = self.alike[kind]
            mirrored = torch.from_numpy(rng.integers(0, 2, self.group)) * len(self.renders)
            groups.append(members[torch.from_numpy(rng.integers(0, len(members), self.group))] + mirrored)
        return torch.cat(groups)

    def batch(self, step: int) -> dict:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, self.rank, step])
        index = self._draw(rng)
        flip = index >= len(self.renders)
        render = index % len(self.renders)
        background = random_backgrounds(self.batch_size, rng)
        batch = {
            "captions": training_captions(*labels(self.renders, render, flip), rng, self.no_view, self.empty),
            "index": index,
        }
        if self.images:
            batch["image"] = self.renders.images(render, background, flip)
        return self._with_twins(batch) if self.twins else batch

    def __iter__(self) -> Iterator[dict]:
        # A loader takes from its workers in turn.
        worker = get_worker_info()
        step, stride = (self.first + worker.id, worker.num_workers) if worker else (self.first, 1)
        while True:
            yield self.batch(step)
            step += stride

    def _with_twins(self, batch: dict) -> dict:
        count = len(self.renders)
        twins = {
            "captions": batch["captions"] + [mirrored(caption) for caption in batch["captions"]],
            "index": torch.cat([batch["index"], (batch["index"] + count) % (2 * count)]),
        }
        if self.images:
            twins["image"] = torch.cat([batch["image"], batch["image"].flip(3)])
        return twins


class ToyboxData(pl.LightningDataModule):
    """Training batches with drawn captions, and validation batches of held-out instances with full captions.

    Args:
        batch_size: Pictures per device and step.
        train: Renders to train on; their mirror images come on top.
        held_out: Renders to validate on.
        no_view: Fraction of captions without view words.
        empty: Fraction of empty captions.
        seed: Of instances, cameras and batches, >= 0.
        cameras: Ranges of the cameras (default: those of CameraRanges).
        cache: Folder of the rendered files (default: VSD_CACHE or ~/.cache/vsd).
        group: Neighbours in a training batch that share object and colour, a divisor of batch_size; 1 for none.
        twins: The second half of a training batch are the mirror images of the first; needs an even batch_size.
        images: Whether training batches have images; without, they have captions and indices of pictures.
        workers: Processes that prepare training batches, 0 for the training's own. The batches stay the same.

    Raises:
        InputError: An option is out of range.
    """

    def __init__(
        self,
        batch_size: int = 32,
        train: int = 61440,
        held_out: int = 3840,
        no_view: float = 0.1,
        empty: float = 0.1,
        seed: int = 0,
        cameras: CameraRanges | None = None,
        cache: str | None = None,
        group: int = 1,
        twins: bool = False,
        images: bool = True,
        workers: int = 0,
    ):
        super().__init__()
        for option, count, least in (
            ("batch_size", batch_size, 1),
            ("train", train, 1),
            ("held_out", held_out, 1),
            ("seed", seed, 0),
            ("workers", workers, 0),
        ):
            require_range(f"data.{option}", count, least)
        for option, fraction in (("no_view", no_view), ("empty", empty)):
            require_range(f"data.{option}", fraction, 0, 1)
        if group < 1 or batch_size % group:
            raise InputError(f"data.group: {group} does not divide data.batch_size, {batch_size}")
        if twins and batch_size % 2:
            raise InputError(
                f"data.twins: data.batch_size, {batch_size}, is odd; pictures and mirror images are as many"
            )
        self.group, self.twins, self.images, self.workers = group, twins, images, workers
        self.batch_size, self.train, self.held_out = batch_size, train, held_out
        self.no_view, self.empty, self.seed, self.cameras, self.cache = no_view, empty, seed, cameras, cache

    @override
    def prepare_data(self) -> None:
        self._load(False)
        self._load(True)

    @override
    def setup(self, stage: str) -> None:
        self.held_out_renders = self._load(True)
        if stage == "fit":
            self.train_renders = self._load(False)

    def _load(self, held_out: bool) -> Renders:
        count = self.held_out if held_out else self.train
        return load_renders(count, held_out, self.seed, cameras=self.cameras, cache=self.cache)

    def train_batches(self, first: int) -> TrainingBatches:
        """The training batches from a step on."""
        return TrainingBatches(
            self.train_renders,
            self.batch_size,
            self.no_view,
            self.empty,
            self.seed,
            self.trainer.global_rank,
            first,
            self.group,
            self.twins,
            self.images,
        )

    @override
    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_batches(self.trainer.global_step), batch_size=None, num_workers=self.workers)

    @override
    def val_dataloader(self) -> DataLoader:
        return DataLoader(held_out_batches(self.held_out_renders, self.batch_size, self.seed), batch_size=None)


def held_out_batches(renders: Renders, batch_size: int, seed: int = 0) -> list[dict]:
    """All renders once, over random backgrounds, with full captions, in batches of the training form."""
    batches = []
    for index in torch.arange(len(renders)).split(batch_size):
        rng = np.random.default_rng([seed, int(index[0])])
        captions = [caption(*words) for words in zip(*labels(renders, index), strict=True)]
        batches.append(
            {"image": renders.images(index, random_backgrounds(len(index), rng)), "captions": captions, "index": index}
        )
    return batches
