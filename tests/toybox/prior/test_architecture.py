import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from common.errors import InputError
from common.files import SUMS
from toybox.prior.architecture import PROMPT_TOKENS, untrained_pipeline, word_tokenizer
from toybox.prior.linear_start import start_linear
from toybox.world.captions import VOCABULARY
from vsd.prior import load_pipeline, toybox_folder

PARTS = ("vae", "unet", "text_encoder", "image_encoder")


def test_every_word_of_the_vocabulary_is_one_token():
    tokenizer = word_tokenizer(VOCABULARY)
    ids = [tokenizer(word).input_ids for word in VOCABULARY]
    assert all(len(i) == 3 for i in ids)
    assert len({i[1] for i in ids}) == len(VOCABULARY)


def test_a_prompt_is_its_words_and_unknown_words_fall_into_letters():
    tokenizer = word_tokenizer(VOCABULARY)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("an orange ice cream, back left view zoo").input_ids)
    words = ["an", "orange", "ice", "cream", ",", "back", "left", "view"]
    assert pieces[1:-1] == [f"{w}</w>" for w in words] + ["z", "o", "o</w>"]


def test_any_order_of_words_gives_whole_words():
    """Merges of later words must not break earlier ones, whatever letters they share."""
    words = ["green", "red", "reed", "greed", "read", "ready", "a", "an", "and"]
    for order in (words, words[::-1], sorted(words)):
        tokenizer = word_tokenizer(order)
        assert all(len(tokenizer(word).input_ids) == 3 for word in words)


def test_untrained_weights_are_a_function_of_the_seed_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    a, b, c = untrained_pipeline(VOCABULARY), untrained_pipeline(VOCABULARY), untrained_pipeline(VOCABULARY, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for part in PARTS:
        first = [next(iter(getattr(p, part).parameters())) for p in (a, b, c)]
        assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_the_saved_pipeline_comes_back_the_same(untrained_prior):
    built, read = untrained_pipeline(VOCABULARY), load_pipeline(untrained_prior)
    assert isinstance(read, StableDiffusionPipeline)
    for part in PARTS:
        ours, theirs = getattr(built, part).state_dict(), getattr(read, part).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    prompts = ["a red car, front view", "an orange ice cream"]
    images = [
        p(prompts, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
        for p in (built, read)
    ]
    assert torch.equal(*images) and images[0].shape == (2, 3, 64, 64)
    assert read.tokenizer.model_max_length == PROMPT_TOKENS


def test_the_embedded_prior_loads_and_is_small():
    pipeline = load_pipeline()
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.vae.config.scaling_factor != 0.18215, "the scale of its own latents, not Stable Diffusion's default"
    size = sum(f.stat().st_size for f in toybox_folder().rglob("*") if f.suffix in (".safetensors", ".json", ".txt"))
    assert size <= 16e6
    for file in toybox_folder().rglob("*.safetensors"):
        header = file.read_bytes()
        tensors = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
        assert {t["dtype"] for name, t in tensors.items() if name != "__metadata__"} <= {"F16", "I64"}, file


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda p: shutil.rmtree(p), "no such prior folder"),
        (lambda p: (p / "model_index.json").unlink(), "model_index.json is missing"),
        (lambda p: (p / "model_index.json").write_text("{"), "not a pipeline index"),
        (
            lambda p: (p / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            "holds a FluxPipeline without",
        ),
        (lambda p: (p / "unet" / "config.json").unlink(), "does not load"),
        (lambda p: truncate(p / "unet" / "diffusion_pytorch_model.safetensors"), "does not load"),
        (lambda p: truncate(p / "text_encoder" / "model.safetensors"), "does not load"),
    ],
)
def test_a_damaged_folder_is_named(untrained_prior, tmp_path, damage, named):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    damage(folder)
    with pytest.raises(InputError) as caught:
        load_pipeline(folder)
    message = str(caught.value)
    assert named in message and str(folder) in message and "\n" not in message


@pytest.mark.parametrize("name", [line.split()[1] for line in (toybox_folder() / SUMS).read_text().splitlines()])
def test_a_flipped_bit_of_the_shipped_prior_is_named(tmp_path, name):
    folder = tmp_path / "prior"
    shutil.copytree(toybox_folder(), folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"guidance.model: {folder / name} is not what SHA256SUMS says"):
        load_pipeline(folder)


def test_the_checksums_are_of_all_files_but_the_model_card():
    files = {str(path.relative_to(toybox_folder())) for path in toybox_folder().rglob("*") if path.is_file()}
    named = {line.split()[1] for line in (toybox_folder() / SUMS).read_text().splitlines()}
    assert files - named == {"README.md", SUMS} and not named - files


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(untrained_prior, tmp_path, value):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.weight"][0, 0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="conv_out.weight in unet has nan or infinity"):
        load_pipeline(folder)


def truncate(file):
    file.write_bytes(file.read_bytes()[:1000])


def test_the_linear_start_reconstructs_better_than_random_weights():
    """Smooth pictures of any colour must come back close to themselves, which random weights do not do."""
    coarse = torch.rand(48, 3, 6, 6) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(-1, 1)
    vae = untrained_pipeline(VOCABULARY).vae

    def error():
        with torch.no_grad():
            posterior = vae.encode(images[32:]).latent_dist
            return (vae.decode(posterior.mode()).sample - images[32:]).square().mean().item(), posterior

    before, _ = error()
    start_linear(vae, images[:32])
    after, posterior = error()
    assert after < 0.02 < 0.1 < before
    assert posterior.mode().square().mean().item() == pytest.approx(1, abs=0.3), "latents of unit variance"
    assert posterior.std.mean().item() == pytest.approx(0.0302, rel=0.05)
