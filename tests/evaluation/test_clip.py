"""CLIP score and R-precision with a tiny model of random weights, against the model's own forward pass."""

import json

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from common.errors import InputError
from evaluation import score
from evaluation.clip import DISTRACTORS, CLIPJudge, spread
from evaluation.pictures import Pictures, white
from evaluation.prior_samples import view_samples
from evaluation.runs import Result
from scene.cameras import Orbit
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
    return torch.rand(count, 4, 3, 32, 32)


def test_the_score_is_the_cosine_of_the_model(folder):
    judge, shown = CLIPJudge.load(str(folder)), pictures(2)
    tokens = judge.tokenizer(["a red car"], padding="max_length", max_length=24, return_tensors="pt")
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (shown.flatten(0, 1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
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


def test_without_samples_there_is_no_distance_to_them(folder):
    figures = CLIPJudge.load(str(folder)).measure(pictures(2), "a red car", [])
    assert (figures.kid_prior, figures.kid_prior_error, figures.diversity_prior) == (None, None, None)


def test_copies_have_no_diversity_and_other_pictures_a_distance(folder):
    judge, samples = CLIPJudge.load(str(folder)), pictures(12)
    same = judge.measure(pictures(12), "a red car", [], samples)
    assert same.diversity_prior == pytest.approx(1, abs=0.4) and abs(same.kid_prior) < 4 * same.kid_prior_error
    copies = judge.measure(samples[:1].expand(4, -1, -1, -1, -1), "a red car", [], samples)
    assert copies.diversity_prior == pytest.approx(0, abs=1e-3)
    dark = judge.measure(pictures(12) / 4, "a red car", [], samples)
    assert dark.kid_prior > 4 * dark.kid_prior_error and dark.kid_prior > 10 * abs(same.kid_prior)
    assert judge.measure(pictures(1), "a red car", [], samples).diversity_prior is None


def test_the_spread_is_the_mean_over_pairs_of_objects_in_the_same_view():
    features = torch.nn.functional.normalize(torch.randn(5, 3, 7), dim=-1)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    naive = torch.stack([1 - (features[i] * features[j]).sum(-1).mean() for i, j in pairs]).mean()
    assert spread(features) == pytest.approx(float(naive), abs=1e-5)


def test_the_priors_samples_follow_the_views_and_the_seed():
    cameras = Orbit(*(torch.tensor(v) for v in ([0.0, 180.0], [15.0, 15.0], [2.3, 2.3], [40.0, 40.0])))
    one, same, other = (view_samples("toybox", "a red car", cameras, 2, steps=2, seed=seed) for seed in (0, 0, 1))
    assert one.shape == (2, 2, 3, 64, 64) and torch.equal(one, same) and not torch.equal(one, other)
    turned = Orbit(*(v.flip(0) for v in vars(cameras).values()))
    assert not torch.equal(view_samples("toybox", "a red car", turned, 2, steps=2), one), "other words in each view"


def test_a_run_is_held_against_samples_of_its_own_prior(folder, capsys, monkeypatch):
    cameras = Orbit(*(torch.tensor([v, v]) for v in (0.0, 15.0, 2.3, 40.0)))
    shown = Pictures(torch.rand(3, 2, 3, 64, 64), torch.ones(3, 2, 64, 64, dtype=torch.bool), white(3, 2))
    result = Result(folder, "a red car", "toybox", "NerfStage", cameras, shown)
    asked = []
    monkeypatch.setattr(score, "view_samples", lambda *which: asked.append(which) or torch.rand(4, 2, 3, 64, 64))
    score.score_clip([result], CLIPJudge.load(str(folder)), True, samples=4)
    figures = json.loads(capsys.readouterr().out)
    assert asked == [("toybox", "a red car", cameras, 4)] and figures["diversity_prior"] > 0
    score.score_clip([result], CLIPJudge.load(str(folder)), False)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == list(figures)[1:] and row.split()[-3:] == ["-", "-", "-"] and len(asked) == 1


@pytest.mark.parametrize("arguments", [["--samples", "4"], ["--clip", "m", "--samples", "2"]])
def test_samples_that_no_measure_can_use_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        score.main(["runs/none", *arguments])
    assert ended.value.code == 2 and "--samples: " in capsys.readouterr().err


def test_pictures_of_any_size_are_scaled(folder):
    judge = CLIPJudge.load(str(folder))
    plain = torch.full((1, 3, 32, 32), 0.5)
    large = torch.full((1, 3, 80, 80), 0.5)
    torch.testing.assert_close(judge.image_features(plain), judge.image_features(large))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="--clip: .* does not load"):
        CLIPJudge.load(str(tmp_path))
