import copy

import pytest
import torch
from torch import nn

from toybox.prior.architecture import untrained_pipeline
from toybox.prior.muon import Muon, orthogonal, split
from toybox.world.captions import VOCABULARY


def test_singular_values_become_alike():
    spectrum = torch.logspace(-1.5, 0, 24)
    u, v = torch.linalg.qr(torch.randn(24, 24)).Q, torch.linalg.qr(torch.randn(60, 24)).Q
    matrices = torch.stack([u @ spectrum.diag() @ v.mT, torch.zeros(24, 60)])
    values = torch.linalg.svdvals(orthogonal(matrices).float())
    assert values[0].min() > 0.6 and values[0].max() < 1.3
    assert not values[1].any()
    tall = orthogonal(matrices.mT)
    torch.testing.assert_close(tall.mT, orthogonal(matrices), rtol=0, atol=0.02)


@pytest.fixture
def weights():
    """Matrices for Muon, two of them alike, and parameters for AdamW."""
    shapes = (12, 30), (30, 12), (12, 30), (8, 3, 3, 3)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes], [nn.Parameter(torch.randn(7))]


def steps(optimizers, parameters, count=3, first=0):
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        for p in parameters:
            p.grad = torch.randn(p.numel(), generator=generator).view_as(p)
        for optimizer in optimizers:
            optimizer.step()


def test_steps_are_those_of_torchs_muon_and_adamw(weights):
    matrices, others = weights
    flat = [nn.Parameter(p.detach().clone().reshape(len(p), -1)) for p in matrices]
    plain = [nn.Parameter(p.detach().clone()) for p in others]
    steps([Muon(matrices, others, lr=0.01)], [*matrices, *others])
    theirs = [
        torch.optim.Muon(flat, lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(plain, lr=0.01, betas=(0.9, 0.99)),
    ]
    steps(theirs, [*flat, *plain])
    for ours, reference in zip([*matrices, *others], [*flat, *plain], strict=True):
        # Products of bfloat16 are rounded otherwise where several matrices share one.
        torch.testing.assert_close(ours.reshape_as(reference), reference, rtol=0, atol=5e-4)


def test_gradients_stay_and_a_parameter_without_one_is_left_alone(weights):
    matrices, others = weights
    before = matrices[0].detach().clone()
    for p in (*matrices[1:], *others):
        p.grad = torch.ones_like(p)
    Muon(matrices, others, lr=0.01).step()
    assert torch.equal(matrices[0], before) and matrices[0].grad is None
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in (*matrices[1:], *others))


def test_a_restored_optimizer_goes_on_to_the_bit(weights):
    matrices, others = weights
    first = Muon(matrices, others, lr=0.01)
    steps([first], [*matrices, *others])
    saved, kept = copy.deepcopy(first.state_dict()), [p.detach().clone() for p in (*matrices, *others)]
    steps([first], [*matrices, *others], first=3)
    ended = [p.detach().clone() for p in (*matrices, *others)]
    for p, value in zip((*matrices, *others), kept, strict=True):
        p.data.copy_(value)
    second = Muon(matrices, others, lr=0.01)
    second.load_state_dict(saved)
    steps([second], [*matrices, *others], first=3)
    assert all(torch.equal(p, value) for p, value in zip((*matrices, *others), ended, strict=True))


def test_muon_takes_the_inner_weights_of_unet_and_text_tower():
    pipeline = untrained_pipeline(VOCABULARY)
    network = nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})
    matrices, others = split(network)
    names = {id(p): name for name, p in network.named_parameters()}
    taken = {names[id(p)] for p in matrices}
    assert len(matrices) + len(others) == len(names)
    assert "unet.mid_block.resnets.0.conv1.weight" in taken
    assert "text_encoder.encoder.layers.0.mlp.fc1.weight" in taken
    edges = ("unet.conv_in.weight", "unet.conv_out.weight", "text_encoder.embeddings.token_embedding.weight")
    assert not taken & {*edges, "unet.conv_in.bias", "unet.conv_norm_out.weight"}
    assert sum(p.numel() for p in matrices) > 0.95 * sum(p.numel() for p in network.parameters())
