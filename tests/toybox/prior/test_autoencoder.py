import shutil
import sys

import pytest
import torch
from small_fits import fit, same, weights

from toybox.prior.autoencoder import edge_error, psnr
from vsd.prior import load_pipeline


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vsd"])


def test_the_decoder_alone_keeps_the_latents(untrained_prior, cache, tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    fit("autoencoder", folder, "--model.decoder_only=true")
    before, after = weights(untrained_prior, "vae"), weights(folder, "vae")
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert "decoder" in changed and not changed & {"encoder", "quant_conv"}
    assert load_pipeline(folder).vae.config.scaling_factor == 0.18215


def test_a_missing_folder_is_written_with_a_linear_start_that_depends_on_the_seed_alone(cache, tmp_path):
    for name, words in (("a", ["--seed_everything=1"]), ("b", []), ("c", ["--model.seed=1"])):
        torch.manual_seed(len(words))
        fit("autoencoder", tmp_path / name, "--model.lr=0", *words, steps=1)
    a, b, c = (weights(tmp_path / name, "vae") for name in "abc")
    assert a["decoder.conv_norm_out.bias"].mean() == 2, "near the linear part of SiLU"
    assert same(a, b) and not same(a, c)
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


def test_the_edge_error_of_a_step_and_of_an_offset():
    """Closed form: one of the 7 column differences is off by 2, no row difference is: (2 / 7 + 0) / 2."""
    truth = torch.zeros(2, 3, 8, 8)
    step = truth.clone()
    step[..., 4:] = 2
    assert edge_error(step, truth).item() == pytest.approx(1 / 7)
    assert edge_error(step.transpose(2, 3), truth).item() == pytest.approx(1 / 7)
    assert edge_error(truth + 0.5, truth) == 0


def test_psnr_of_a_known_error():
    """Range 2: an error of 0.2 everywhere is a tenth of it, 20 dB."""
    assert psnr(torch.tensor(0.04)).item() == pytest.approx(20)
