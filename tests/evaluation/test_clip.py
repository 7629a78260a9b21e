"""CLIP score and R-precision with a tiny model of random weights, against the model's own forward pass."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from common.errors import InputError
from evaluation.clip import DISTRACTORS, CLIPJudge
from evaluation.pictures import Pictures, white
from vsd.prior import load_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP model of a few thousand weights, saved with save_pretrained beside the toybox's tokenizer."""
    path = tmp_path_factory.mktemp("clip")
    tokenizer = load_pipeline().tokenizer
    tokenizer.save_pretrained(path)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": tokenizer.eos_token_id}
    vision = tower | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=tower | words, vision_config=vision, projection_dim=8)).save_pretrained(path)
    return path


def pictures(count):
    rgb = torch.rand(count, 4, 3, 32, 32)
    return Pictures(rgb, torch.ones(count, 4, 32, 32, dtype=torch.bool), white(count, 4))


def test_the_score_is_the_cosine_of_the_model(folder):
    judge, shown = CLIPJudge.load(str(folder)), pictures(2)
    tokens = judge.tokenizer(["a red car"], padding="max_length", max_length=24, return_tensors="pt")
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (shown.rgb.flatten(0, 1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        out = judge.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    cosine = out.logits_per_image / judge.model.logit_scale.exp()
    figures = judge.measure(shown, "a red car", ["a red car", "a blue duck"])
    assert figures.clip_score == pytest.approx(100 * float(cosine.detach().clamp(min=0).mean()), abs=1e-3)


def test_r_precision_is_the_fraction_of_views_that_are_nearest_to_their_prompt(folder, monkeypatch):
    judge = CLIPJudge.load(str(folder))
    text = torch.eye(1 + len(DISTRACTORS))
    monkeypatch.setattr(judge, "text_features", lambda prompts: text[: len(prompts)])
    seen = text[[0, 0, 0, 5]]
    monkeypatch.setattr(judge, "image_features", lambda images: seen)
    figures = judge.measure(pictures(1), "a red zebra", [])
    assert figures.r_precision == pytest.approx(0.75) and figures.clip_score == pytest.approx(75)


def test_pictures_of_any_size_are_scaled(folder):
    judge = CLIPJudge.load(str(folder))
    plain = torch.full((1, 3, 32, 32), 0.5)
    large = torch.full((1, 3, 80, 80), 0.5)
    torch.testing.assert_close(judge.image_features(plain), judge.image_features(large))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="--clip: .* does not load"):
        CLIPJudge.load(str(tmp_path))
