"""The core in other programs: no Lightning, no 3D, a prompt per sample, any encoder, any optimizer."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from common.errors import InputError
from toybox.prior.architecture import untrained_pipeline
from toybox.world.captions import VOCABULARY
from vsd import Conditions, DiffusionPrior, ScoreDistillation, ScoreNetwork
from vsd.embeddings import encode

ROOT = Path(__file__).parents[2]
HEAVY = ("pytorch_lightning", "lightning", "nerfacc", "warp", "wandb", "trimesh", "xatlas", "omegaconf", "imageio")


def test_a_step_needs_torch_diffusers_and_peft_alone(untrained_prior):
    """In a process where everything else is blocked."""
    program = f"""
        from importlib.machinery import PathFinder

        find = PathFinder.find_spec

        def without(name, path=None, target=None):
            return None if name.partition(".")[0] in {HEAVY!r} else find(name, path, target)

        PathFinder.find_spec = without  # as if they were not installed
        import torch
        import vsd
        prior = vsd.DiffusionPrior.load({str(untrained_prior)!r})
        phi = vsd.ScoreNetwork(prior, rank=2)
        distillation = vsd.ScoreDistillation(prior, phi)
        prompts = ["a red car", "a blue duck"]
        conditions = vsd.Conditions(vsd.embed(prior, prompts), vsd.embed(prior, ["", ""]))
        x_0 = torch.randn(2, 8, 16, 16, requires_grad=True)
        distillation.loss(x_0, conditions).backward()
        phi.loss(x_0.detach(), conditions.text).backward()
        assert x_0.grad.abs().sum() > 0
        assert all(p.grad is not None for p in phi.parameters())
        assert all(hasattr(vsd, name) for name in vsd.__all__)
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("done\n", "")  # no bars, no advice


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior(untrained_pipeline(VOCABULARY))


def test_every_sample_has_its_own_prompt(prior):
    text, empty = encode(prior, ["a red car", "a blue duck"]), encode(prior, ["", ""])
    distillation = ScoreDistillation(prior, kind="sds")
    x_0, t, eps = torch.randn(2, 8, 16, 16), torch.tensor([300, 300]), torch.randn(2, 8, 16, 16)
    both = distillation.gradient(x_0, t, eps, Conditions(text, empty))
    for k in range(2):
        alone = distillation.gradient(x_0[k : k + 1], t[:1], eps[k : k + 1], Conditions(text[k : k + 1], empty[:1]))
        torch.testing.assert_close(both[k : k + 1], alone, atol=1e-5, rtol=1e-4)


def test_what_is_not_given_is_drawn_and_follows_the_generator(prior):
    conditions = Conditions(encode(prior, ["a red car"] * 2), encode(prior, [""] * 2))
    distillation = ScoreDistillation(prior, kind="sds")
    x_0 = torch.randn(2, 8, 16, 16)
    one, same, other = (
        distillation.loss(x_0, conditions, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_without_guidance_no_negative_prompt_is_needed(prior):
    conditions = Conditions(encode(prior, ["a red car"]))
    x_0 = torch.randn(1, 8, 16, 16)
    assert ScoreDistillation(prior, kind="sds", scale=1.0).loss(x_0, conditions).isfinite()
    with pytest.raises(InputError, match=r"guidance: sds at scale 7\.5 needs a negative prompt"):
        ScoreDistillation(prior, kind="sds").loss(x_0, conditions)
    with pytest.raises(InputError, match=r"guidance\.kind: vsd needs a score network"):
        ScoreDistillation(prior)


def test_a_phi_without_a_camera_takes_none_and_has_none():
    prior = DiffusionPrior(untrained_pipeline(VOCABULARY))
    plain = ScoreNetwork(prior, rank=2)
    text = encode(prior, ["a red car"])
    x_t, t = torch.randn(1, 8, 16, 16), torch.tensor([300])
    before = plain.predict(x_t, t, text)
    assert torch.equal(plain.predict(x_t, t, text, torch.ones(1, 4, 4)), before)
    assert plain.camera is None and plain.state()["camera"] == {}


def test_a_tiny_autoencoder_encodes_in_the_place_of_the_full_one():
    """As TAESD does: latents without a posterior, a scale of its own."""
    pipeline = untrained_stable_diffusion(TINY)
    torch.manual_seed(0)
    channels = dict(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8))
    blocks = dict(num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))
    tiny = AutoencoderTiny(**channels, **blocks, latent_channels=4)
    prior = DiffusionPrior(pipeline, encoder=tiny)
    size = prior.image_size
    images = torch.rand(2, 3, size, size, requires_grad=True)
    latents = prior.encode(images)
    torch.testing.assert_close(latents, tiny.encode(images).latents * tiny.config.scaling_factor)
    assert not any(p.requires_grad for p in tiny.parameters())
    latents.square().sum().backward()
    assert images.grad.abs().sum() > 0
