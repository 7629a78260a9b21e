import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import InputError
from toybox.prior.data import ToyboxData, TrainingBatches, held_out_batches, labels
from toybox.world import renders as module
from toybox.world.captions import caption
from toybox.world.renders import CameraRanges, load_renders, random_backgrounds


def test_the_same_arguments_give_the_same_renders_from_file_or_anew(tmp_path):
    split = load_renders(24, cache=tmp_path / "a", workers=1)
    read = load_renders(24, cache=tmp_path / "a")
    anew = load_renders(24, cache=tmp_path / "b", workers=1)
    for other in (read, anew):
        assert torch.equal(split.rgba, other.rgba)
        assert torch.equal(split.cameras.azimuth, other.cameras.azimuth)
    seeded = load_renders(24, cache=tmp_path / "a", seed=1, workers=1)
    assert not torch.equal(split.rgba, seeded.rgba)


def test_processes_do_not_change_the_renders(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 96)
    alone = load_renders(200, cache=tmp_path / "a", workers=1)
    monkeypatch.setattr(module, "ProcessPoolExecutor", InOrder)
    together = load_renders(200, cache=tmp_path / "b", workers=2)
    assert torch.equal(alone.rgba, together.rgba) and len(alone) == 200


class InOrder:
    """Stands in for the process pool: the same calls, in this process."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    map = staticmethod(map)


def test_held_out_instances_differ_and_all_pairs_occur_equally(tmp_path):
    train = load_renders(192, cache=tmp_path, workers=1)
    held = load_renders(192, held_out=True, cache=tmp_path, workers=1)
    assert not (train.rgba[:96] == held.rgba[:96]).flatten(1).all(1).any()
    pairs = train.name * 8 + train.colour
    assert torch.bincount(pairs, minlength=96).tolist() == [2] * 96


def test_cameras_cover_their_ranges():
    cameras = CameraRanges().sample(20000, np.random.default_rng(0))
    for values, low, high in (
        (cameras.distance, 2.1, 2.5),
        (cameras.fovy, 36, 44),
        (cameras.azimuth, 0, 360),
        (cameras.elevation, -10, 85),
    ):
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
    assert (cameras.elevation > 45).float().mean().item() == pytest.approx(0.15, abs=0.01)
    sectors = torch.bincount((cameras.azimuth // 45).long(), minlength=8)
    assert (sectors / 20000 - 1 / 8).abs().max() < 0.01


@pytest.mark.parametrize("damage", ["version", "cameras", "foreign"])
def test_a_cache_that_does_not_fit_is_named(tmp_path, monkeypatch, damage):
    load_renders(12, cache=tmp_path, workers=1)
    (path,) = tmp_path.glob("*.safetensors")
    cameras = None
    if damage == "version":
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    elif damage == "cameras":
        cameras = CameraRanges(distance=(2.0, 2.2))
    else:
        save_file(load_file(path), path)
    with pytest.raises(InputError) as caught:
        load_renders(12, cache=tmp_path, cameras=cameras)
    assert str(path) in str(caught.value) and "delete it" in str(caught.value)
    assert path.exists(), "nothing is lost"


def test_a_failed_rendering_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_render_chunk", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_renders(12, cache=tmp_path, workers=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_mirrored_image_gets_the_mirrored_caption(tmp_path):
    renders = load_renders(96, cache=tmp_path, workers=1)
    index = torch.arange(96)
    straight = labels(renders, index)[2]
    mirrored = labels(renders, index, torch.ones(96, dtype=torch.bool))[2]
    swap = str.maketrans({"l": "L"})
    for a, b in zip(straight, mirrored, strict=True):
        expected = a.replace("left", "#").replace("right", "left").replace("#", "right")
        assert b.translate(swap) == expected.translate(swap)
    background = torch.ones(96, 3)
    images = renders.images(index, background)
    assert torch.equal(renders.images(index, background, torch.ones(96, dtype=torch.bool)), images.flip(3))
    assert images.min() >= -1 and images.max() <= 1


def test_batches_are_a_function_of_seed_rank_and_step(tmp_path):
    renders = load_renders(48, cache=tmp_path, workers=1)

    def batches(seed=0, rank=0, first=0, count=3):
        stream = iter(TrainingBatches(renders, 4, 0.1, 0.1, seed, rank, first))
        return [next(stream) for _ in range(count)]

    whole = batches()
    resumed = batches(first=2, count=1)[0]
    assert torch.equal(whole[2]["image"], resumed["image"]) and whole[2]["captions"] == resumed["captions"]
    for other in (batches(seed=1)[0], batches(rank=1)[0], whole[1]):
        assert not torch.equal(whole[0]["image"], other["image"])


def test_rendering_leaves_the_number_of_threads_as_it_is(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load_renders(4, cache=tmp_path, workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_groups_share_object_and_colour_and_mix_renders_with_mirror_images(tmp_path):
    renders = load_renders(288, cache=tmp_path, workers=1)  # three of every object and colour
    batch = next(iter(TrainingBatches(renders, 64, 0.0, 0.0, 0, 0, 0, group=16)))
    render = batch["index"] % len(renders)
    kinds = torch.stack([renders.name[render], renders.colour[render]], 1).view(4, 16, 2)
    assert (kinds == kinds[:, :1]).all() and len(kinds[:, 0].unique(dim=0)) > 1
    for index in batch["index"].view(4, 16):
        assert len(index.unique()) > 3, "some of the three renders, and some mirrored"
    assert all(text.endswith(" view") for text in batch["captions"])


def test_twins_are_the_mirror_images_with_their_own_captions(tmp_path):
    renders = load_renders(96, cache=tmp_path, workers=1)
    batch = next(iter(TrainingBatches(renders, 128, 0.1, 0.1, 0, 0, 0, twins=True)))
    image, index, captions = batch["image"], batch["index"], batch["captions"]
    assert len(image) == len(index) == len(captions) == 128
    assert torch.equal(image[:64].flip(3), image[64:]) and torch.equal((index[:64] + 96) % 192, index[64:])
    own = [caption(*words) for words in zip(*labels(renders, index % 96, index >= 96), strict=True)]
    full = [i for i, text in enumerate(captions) if text.endswith(" view") and ", side" not in text]
    assert len(full) > 60 and all(captions[i] == own[i] for i in full)
    assert captions.count("") % 2 == 0 and "" in captions


def test_held_out_batches_hold_every_render_once_with_full_captions(tmp_path):
    renders = load_renders(24, held_out=True, cache=tmp_path, workers=1)
    batches = held_out_batches(renders, 10)
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(24))
    assert all(text.endswith(" view") for b in batches for text in b["captions"])


def test_backgrounds_are_plain_and_mixed():
    drawn = random_backgrounds(5000, np.random.default_rng(0))
    white = (drawn == 1).all(1)
    grey = (drawn == drawn[:, :1]).all(1) & ~white
    assert white.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert grey.float().mean().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch_size": 0}, "data.batch_size"),
        ({"train": 0}, "data.train: 0"),
        ({"batch_size": 6, "group": 4}, "data.group: 4"),
        ({"batch_size": 5, "twins": True}, "data.twins: data.batch_size, 5"),
    ],
)
def test_wrong_sizes_are_named(tmp_path, arguments, named):
    with pytest.raises(InputError, match=named):
        ToyboxData(cache=str(tmp_path), **arguments).prepare_data()
