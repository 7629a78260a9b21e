import shutil
import sys
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from small_fits import fit, same, weights

from toybox.prior.text_margin import GROUPS, captions_by_view, margin_loss
from toybox.world.captions import VIEW_WORDS, caption, parse_prompt
from vsd.prior import load_pipeline


def test_only_what_exceeds_the_margin_costs_and_equal_captions_never():
    pooled = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 3.0]])
    tokens = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 1]])
    # Cosines of different captions: 0.6 twice, 0 twice, 0.8; each pair counts in both orders.
    expected = (2 * 0.1**2 + 0.3**2) / 5
    assert margin_loss(pooled, tokens, 0.5).item() == pytest.approx(expected, rel=1e-5)
    assert margin_loss(pooled, tokens, 0.8).item() == pytest.approx(0, abs=1e-12)


def test_captions_of_a_group_differ_in_their_view_alone():
    drawn = captions_by_view(torch.Generator().manual_seed(0))
    size = len(VIEW_WORDS) + 1
    assert len(drawn) == GROUPS * size and drawn == captions_by_view(torch.Generator().manual_seed(0))
    groups = [[parse_prompt(text) for text in drawn[i : i + size]] for i in range(0, len(drawn), size)]
    assert all(len({kind[:2] for kind in group}) == 1 and len(set(group)) == size for group in groups)
    assert len({group[0][:2] for group in groups}) > 1


def test_it_moves_left_and_right_apart(untrained_prior):
    pipeline = load_pipeline(untrained_prior)
    tower = deepcopy(pipeline.text_encoder).float().requires_grad_(True)
    draws = torch.Generator().manual_seed(0)

    def pooled(captions):
        options = {"padding": "max_length", "max_length": pipeline.tokenizer.model_max_length, "return_tensors": "pt"}
        tokens = pipeline.tokenizer(captions, **options).input_ids
        return tower(tokens).pooler_output, tokens

    def cosine():
        with torch.no_grad():
            sides = pooled([caption("car", "red", "left side view"), caption("car", "red", "right side view")])[0]
        return F.cosine_similarity(*sides[:, None]).item()

    before = cosine()
    optimizer = torch.optim.Adam(tower.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        margin_loss(*pooled(captions_by_view(draws)), 0.5).backward()
        optimizer.step()
    assert cosine() < 0.7 < before


def test_the_training_asks_for_it(untrained_prior, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vsd"])
    folders = tmp_path / "with" / "prior", tmp_path / "without" / "prior"
    for folder, margin in zip(folders, (0.0, 1.0), strict=True):
        shutil.copytree(untrained_prior, folder)
        fit("prior", folder, "--model.warmup=1", f"--model.text_margin={margin}")
    assert not same(*(weights(folder, "text_encoder") for folder in folders))
