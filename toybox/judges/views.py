"""An independent judge of views: a small convolutional network trained on true renders alone.

It sees objects with a front and tells which of the eight azimuth sectors the camera was in.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cache import cache_folder, load_weights
from common.files import atomic_write
from toybox.world.captions import VIEWS
from toybox.world.objects import OBJECTS, WITH_FRONT
from toybox.world.renders import VERSION, Renders, random_backgrounds

SECTORS = len(VIEWS.sectors)


class ViewClassifier(nn.Module):
    """A stack of strided convolutions, and a perceptron on the 4 x 4 cells that are left."""

    def __init__(self):
        super().__init__()
        widths = (3, 32, 64, 128, 192)
        layers: list[nn.Module] = []
        for i, (inside, outside) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [
                nn.Conv2d(inside, outside, 5 if i == 0 else 3, 2, 2 if i == 0 else 1),
                nn.BatchNorm2d(outside),
                nn.SiLU(),
            ]
        layers += [nn.Conv2d(192, 192, 3, 1, 1), nn.BatchNorm2d(192), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(192 * 16, 192), nn.SiLU(), nn.Linear(192, SECTORS))

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the azimuth sectors.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].

        Returns:
            (B, 8).
        """
        return self.head(self.features(images))


def sector_examples(renders: Renders) -> Tensor:
    """The renders that have an azimuth sector to tell: objects with a front, not seen from overhead.

    Args:
        renders: N renders.

    Returns:
        Indices (M,).
    """
    names = list(OBJECTS)
    fronted = torch.tensor([name in WITH_FRONT for name in names])[renders.name]
    return torch.nonzero(fronted & (renders.cameras.elevation <= VIEWS.overhead_above))[:, 0]


def train_view_classifier(renders: Renders, steps: int, batch_size: int = 64, seed: int = 0) -> ViewClassifier:
    """Trains a classifier on renders and their mirror images; deterministic by seed.

    Args:
        renders: What it learns from.
        steps: Batches.
        batch_size: Images of a batch.
        seed: Of the first weights and the order.

    Returns:
        The classifier, in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ViewClassifier()
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2), pct_start=0.1)
    rng = np.random.default_rng(seed)
    examples = sector_examples(renders)
    for _ in range(steps):
        index = examples[torch.from_numpy(rng.integers(0, len(examples), batch_size))]
        flip = torch.from_numpy(rng.random(batch_size) < 0.5)
        images = renders.images(index, random_backgrounds(batch_size, rng), flip)
        azimuth = renders.cameras.azimuth[index]
        target = VIEWS.index(torch.where(flip, -azimuth, azimuth), renders.cameras.elevation[index])
        loss = F.cross_entropy(network(images.contiguous(memory_format=torch.channels_last)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def cached_view_classifier(renders: Renders, steps: int) -> ViewClassifier:
    """The classifier for some renders from the cache folder, or a new one, put there.

    Args:
        renders: What it learns from.
        steps: Batches.

    Returns:
        The classifier, in evaluation mode.
    """
    folder = cache_folder()
    path = folder / f"view-classifier-v{VERSION}-{len(renders)}-{steps}.pt"
    network = ViewClassifier()
    if load_weights(path, network):
        return network.eval()
    network = train_view_classifier(renders, steps)
    with atomic_write(path) as temporary:
        torch.save(network.state_dict(), temporary)
    return network


@torch.no_grad()
def held_out_accuracy(network: ViewClassifier, renders: Renders) -> dict[str, float]:
    """Accuracy over random backgrounds, on renders and their mirror images.

    Args:
        network: The classifier.
        renders: Held-out renders.

    Returns:
        Fractions in [0, 1], by object with a front.
    """
    names = list(OBJECTS)
    examples = sector_examples(renders)
    rng = np.random.default_rng(1)
    right = []
    for index in examples.split(256):
        verdicts = []
        for mirrored in (False, True):
            flip = torch.full((len(index),), mirrored)
            azimuth = renders.cameras.azimuth[index] * (-1 if mirrored else 1)
            target = VIEWS.index(azimuth, renders.cameras.elevation[index])
            images = renders.images(index, random_backgrounds(len(index), rng), flip)
            verdicts.append((network(images).argmax(1) == target).float())
        right.append(torch.stack(verdicts).mean(0))
    right = torch.cat(right)
    return {name: float(right[renders.name[examples] == names.index(name)].mean()) for name in WITH_FRONT}
