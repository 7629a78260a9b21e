import torch
from torch.utils.data import DataLoader

from toybox.prior.data import TrainingBatches
from toybox.world.renders import load_renders


def take(batches, count, workers=0):
    stream = iter(DataLoader(batches, batch_size=None, num_workers=workers))
    return [next(stream) for _ in range(count)]


def test_workers_and_left_out_images_change_no_batch(cache):
    renders = load_renders(96, workers=1)
    plain = take(TrainingBatches(renders, 8, 0.1, 0.1, 0, 0, 3, twins=True), 5)
    together = take(TrainingBatches(renders, 8, 0.1, 0.1, 0, 0, 3, twins=True), 5, workers=2)
    bare = take(TrainingBatches(renders, 8, 0.1, 0.1, 0, 0, 3, twins=True, images=False), 5)
    for a, b, c in zip(plain, together, bare, strict=True):
        assert torch.equal(a["image"], b["image"]) and "image" not in c
        assert a["captions"] == b["captions"] == c["captions"]
        assert torch.equal(a["index"], b["index"]) and torch.equal(a["index"], c["index"])
