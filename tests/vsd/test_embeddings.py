import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from common.errors import InputError
from toybox.prior.architecture import untrained_pipeline
from toybox.world.captions import VOCABULARY
from vsd.embeddings import embed, encode, fingerprint, free_text_encoders
from vsd.prior import DiffusionPrior
from vsd.prompts import Prompts, PromptTable
from vsd.views import eight_sectors

PROMPTS = ["a red car", "a duck", ""]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty cache for each test."""
    monkeypatch.setenv("VSD_CACHE", str(tmp_path / "store"))
    return tmp_path / "store" / "embeddings"


def load(folder, **more):
    return DiffusionPrior.load(str(folder), **more)


def forbid_encoding(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the text encoder was asked")

    monkeypatch.setattr("transformers.CLIPTextModel.forward", refuse)
    monkeypatch.setattr("transformers.CLIPTextModel.to", refuse)


def test_a_second_run_never_asks_the_text_encoder(tiny_sd, store, monkeypatch):
    first = embed(load(tiny_sd / "eps"), PROMPTS)
    torch.testing.assert_close(first.states, encode(load(tiny_sd / "eps"), PROMPTS).states)
    assert len(list(store.iterdir())) == 3
    prior = load(tiny_sd / "eps")
    forbid_encoding(monkeypatch)
    again = embed(prior, PROMPTS[::-1])
    assert torch.equal(again.states, first.states.flip(0))
    with pytest.raises(AssertionError, match="was asked"):
        embed(prior, ["a house"])


def test_only_what_the_cache_lacks_is_encoded(tiny_sd, monkeypatch):
    prior, asked = load(tiny_sd / "eps"), []
    embed(prior, PROMPTS)
    monkeypatch.setattr("vsd.embeddings.encode", lambda p, texts: asked.extend(texts) or encode(p, texts))
    texts = embed(prior, ["a duck", "a tree", "a tree", "a red car"])
    assert asked == ["a tree"]
    torch.testing.assert_close(texts.states, encode(prior, ["a duck", "a tree", "a tree", "a red car"]).states)


def test_a_run_of_views_hits_the_cache(monkeypatch):
    def table():
        prompts = Prompts("a red car", "a duck", eight_sectors())
        return PromptTable(prior, prompts)

    prior = DiffusionPrior(untrained_pipeline(VOCABULARY))
    filled = table()
    prior = DiffusionPrior(untrained_pipeline(VOCABULARY))
    forbid_encoding(monkeypatch)
    assert torch.equal(table().views.states, filled.views.states)


def test_another_folder_with_the_same_content_hits_and_a_changed_one_does_not(tiny_sd, tmp_path):
    def changed(name, change):
        folder = tmp_path / name
        shutil.copytree(tiny_sd / "eps", folder)
        change(folder)
        return fingerprint(load(folder))

    def one_weight(folder):
        file = folder / "text_encoder" / "model.safetensors"
        tensors = load_file(file)
        next(iter(tensors.values())).view(-1)[5] += 1e-3
        save_file(tensors, file, metadata={"format": "pt"})

    def setting(folder):
        file = folder / "text_encoder" / "config.json"
        file.write_text(file.read_text().replace('"quick_gelu"', '"gelu"'))

    def words(folder):
        for file in (folder / "tokenizer").iterdir():
            file.write_text(file.read_text().replace("!</w>", "?temporary").replace('"?</w>', '"!</w>'))

    same = fingerprint(load(tiny_sd / "eps"))
    assert changed("copy", lambda _: None) == same
    assert changed("unet", lambda folder: (folder / "unet" / "note.txt").write_text("x")) == same
    different = [changed(f.__name__, f) for f in (one_weight, setting, words)]
    different += [fingerprint(load(tiny_sd / "v")), fingerprint(load(tiny_sd / "eps", dtype=torch.bfloat16))]
    assert len({same, *different}) == 6, "weights, settings, vocabulary, model and dtype all count"


def test_use_does_not_change_the_fingerprint(tiny_sd):
    prior = load(tiny_sd / "eps")
    before = fingerprint(prior)
    encode(prior, ["a red car"])
    assert fingerprint(prior) == before


@pytest.mark.parametrize("damage", [b"", b"no tensors", "half"])
def test_a_damaged_file_is_made_anew(tiny_sd, store, damage, caplog):
    prior = load(tiny_sd / "eps")
    first = embed(prior, ["a duck"])
    (file,) = store.iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage == "half" else damage)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(embed(prior, ["a duck"]).states, first.states)
    assert "is damaged" in caplog.text and str(file) in caplog.text
    caplog.clear()
    assert torch.equal(embed(prior, ["a duck"]).states, first.states)
    assert not caplog.text, "the file is whole again"


def test_a_file_of_other_tensors_is_made_anew(tiny_sd, store):
    prior = load(tiny_sd / "eps")
    first = embed(prior, ["a duck"])
    (file,) = store.iterdir()
    save_file({"other": torch.zeros(2)}, file)
    assert torch.equal(embed(prior, ["a duck"]).states, first.states)


def test_a_folder_that_cannot_be_written_costs_a_line_and_no_run(tiny_sd, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VSD_CACHE", str(tmp_path / "file"))
    prior = load(tiny_sd / "eps")
    with caplog.at_level(logging.WARNING):
        assert embed(prior, PROMPTS).states.shape[0] == 3
    (line,) = [r.getMessage() for r in caplog.records if r.name == "common.cache"]
    assert "set VSD_CACHE" in line


@pytest.mark.parametrize("prompt", ["../../escape", "/etc/passwd", "a 🦆 on a 車", "a\nb\0c", "C:\\car"])
def test_any_text_is_a_prompt_and_no_path(tiny_sd, tmp_path, store, prompt):
    """Stable Diffusion's tokenizer spells everything; the file's name is a hash."""
    prior = load(tiny_sd / "eps")
    table = PromptTable(prior, Prompts(prompt, views=eight_sectors()))
    assert table.views.states.isfinite().all() and table.views.states.shape[0] == 9
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert len(files) == 11 and {f.parent for f in files} == {store}
    assert all(len(f.stem) == 64 and f.suffix == ".safetensors" for f in files)


def test_prompts_that_lose_their_view_words_are_named(tiny_sd):
    prior = load(tiny_sd / "eps")
    with pytest.raises(InputError, match=r"prompt: 'word word .* front view' has \d+ tokens, of which .* reads 77;"):
        PromptTable(prior, Prompts("word " * 17, views=eight_sectors()))


def test_words_that_the_toybox_does_not_know_are_named(tiny_sd):
    toybox = DiffusionPrior(untrained_pipeline(VOCABULARY))
    for prompts, named in (
        (Prompts("a red unicorn"), "unknown word 'unicorn'; the toybox has a an back blue car"),
        (Prompts("a red car", negative="blurry"), "negative 'blurry': unknown word 'blurry'"),
        (Prompts("a red car 🦆"), "unknown word '🦆'"),
        (Prompts("a red car, x view"), "unknown word 'x'"),
        (Prompts("../a red car"), r"unknown word '\.\./'"),
        (Prompts("a red car", views=eight_sectors(), overrides={"back view": "a car's back"}), "unknown word"),
    ):
        with pytest.raises(InputError, match=named) as caught:
            PromptTable(toybox, prompts)
        assert "\n" not in str(caught.value)
    PromptTable(toybox, Prompts("An ORANGE ice cream,  side view", views=eight_sectors()))
    PromptTable(load(tiny_sd / "eps"), Prompts("a red unicorn"))


def test_freed_encoders_are_gone():
    prior = DiffusionPrior(untrained_stable_diffusion(TINY))
    embed(prior, ["a duck"])
    free_text_encoders(prior)
    assert prior.pipeline.text_encoder is None
