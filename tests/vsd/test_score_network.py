import pytest
import torch
from diffusers import StableDiffusionPipeline

from common.errors import InputError
from toybox.prior.architecture import untrained_pipeline
from toybox.world.captions import VOCABULARY
from vsd.embeddings import encode
from vsd.prior import DiffusionPrior
from vsd.score_network import ScoreNetwork

CAMERAS = torch.eye(4).repeat(2, 1, 1) + torch.arange(2)[:, None, None]


@pytest.fixture
def prior():
    return DiffusionPrior(untrained_pipeline(VOCABULARY))


@pytest.fixture
def batch(prior):
    text = encode(prior, ["a red car", "a red car"])
    return torch.randn(2, 8, 16, 16), torch.tensor([100, 800]), text


def train(network, batch, steps=3, lr=1e-2):
    x_0, t, text = batch
    optimizer = torch.optim.AdamW(network.parameters(), lr)
    losses = []
    for _ in range(steps):
        loss = network.loss(x_0, text, CAMERAS, t, torch.ones_like(x_0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_prior_stays_the_same_to_the_bit(prior, batch):
    before = prior.predict(*batch)
    network = ScoreNetwork(prior, camera=True)
    assert torch.equal(prior.predict(*batch), before)
    assert torch.equal(network.predict(*batch, CAMERAS), before), "phi starts as the prior"
    losses = train(network, batch)
    assert losses[-1] < losses[0]
    assert torch.equal(prior.predict(*batch), before), "training phi must not touch the prior"
    assert not torch.equal(network.predict(*batch, CAMERAS), before)


def test_only_the_adapter_and_the_camera_are_trained(prior, batch):
    network = ScoreNetwork(prior, rank=2, camera=True)
    frozen = {n: p.clone() for n, p in prior.unet.named_parameters() if "lora" not in n}
    train(network, batch)
    assert all(torch.equal(p, frozen[n]) for n, p in prior.unet.named_parameters() if n in frozen)
    assert all(p.requires_grad for p in network.parameters())
    names = {n for n, _ in network.named_parameters()}
    assert any(n.startswith("camera") for n in names) and any(n.startswith("adapter") for n in names)
    assert all(p.grad is not None for p in network.parameters())


def test_the_camera_changes_the_score_and_zeros_are_no_camera(prior, batch):
    network = ScoreNetwork(prior, camera=True)
    train(network, batch)
    here, there = network.predict(*batch, CAMERAS), network.predict(*batch, CAMERAS.flip(0))
    assert not torch.allclose(here, there)
    none = network.predict(*batch, torch.zeros(2, 4, 4))
    assert not torch.allclose(none, here)


def test_a_hidden_camera_is_no_camera(prior, batch):
    network = ScoreNetwork(prior, camera=True)
    train(network, batch)
    x_0, t, text = batch
    eps = torch.randn_like(x_0)
    hidden = network.loss(x_0, text, None, t, eps)
    torch.testing.assert_close(hidden, network.loss(x_0, text, torch.zeros(2, 4, 4), t, eps))
    assert not torch.allclose(hidden, network.loss(x_0, text, CAMERAS, t, eps))


def test_the_v_objective_weights_the_eps_error_of_an_eps_network(batch):
    pipeline = untrained_pipeline(VOCABULARY)
    pipeline.scheduler.register_to_config(prediction_type="epsilon")
    prior = DiffusionPrior(pipeline)
    network = ScoreNetwork(prior, camera=True)
    x_0, t, text = batch
    eps = torch.randn_like(x_0)
    error = (network.predict(prior.noise(x_0, t, eps), t, text, CAMERAS) - eps).square().mean((1, 2, 3))
    plain = network.loss(x_0, text, CAMERAS, t, eps, v_objective=False)
    torch.testing.assert_close(plain, error.mean())
    assert (1 / prior.alphabar[t]).max() > 5.0
    weighted = network.loss(x_0, text, CAMERAS, t, eps, weight_limit=5.0)
    torch.testing.assert_close(weighted, (error * (1 / prior.alphabar[t]).clamp(max=5.0)).mean())


def test_the_v_objective_of_a_v_network_is_its_own_error(prior, batch):
    """Without a limit: the error of v is tame where that of eps over alphabar is not, even at no signal at all."""
    network = ScoreNetwork(prior, camera=True)
    x_0, t, text = batch
    eps = torch.randn_like(x_0)
    prior.alphabar[800] = 0.0
    alphabar = prior.alphabar[t][:, None, None, None]
    x_t = prior.noise(x_0, t, eps)
    raw = network.raw(x_t, t, text, CAMERAS)
    expected = (raw - (alphabar.sqrt() * eps - (1 - alphabar).sqrt() * x_0)).square().mean()
    loss = network.loss(x_0, text, CAMERAS, t, eps, weight_limit=1.0)
    torch.testing.assert_close(loss, expected)
    assert loss.isfinite()
    plain = network.loss(x_0, text, CAMERAS, t, eps, v_objective=False)
    torch.testing.assert_close(
        plain, (network.predict(prior.noise(x_0, t, eps), t, text, CAMERAS) - eps).square().mean()
    )


def test_state_goes_to_another_network_and_back(prior, batch, tmp_path):
    network = ScoreNetwork(prior, camera=True)
    train(network, batch)
    torch.save(network.state(), tmp_path / "phi.pt")
    other_prior = DiffusionPrior(untrained_pipeline(VOCABULARY))
    other = ScoreNetwork(other_prior, camera=True)
    other.load_state(torch.load(tmp_path / "phi.pt", weights_only=True))
    assert torch.equal(other.predict(*batch, CAMERAS), network.predict(*batch, CAMERAS))
    with pytest.raises(InputError, match="does not fit"):
        ScoreNetwork(DiffusionPrior(untrained_pipeline(VOCABULARY)), targets=("to_q",)).load_state(network.state())


def test_a_plain_pipeline_loads_the_exported_lora(prior, batch, tmp_path):
    network = ScoreNetwork(prior, camera=True)
    train(network, batch)
    network.export(tmp_path)
    network.load_camera(tmp_path / "camera.safetensors")
    plain: StableDiffusionPipeline = untrained_pipeline(VOCABULARY)
    plain.load_lora_weights(tmp_path)
    with torch.no_grad():
        raw = plain.unet(batch[0], batch[1], batch[2].states).sample
    # The plain pipeline knows no camera: compare with a network whose camera embedding is silent.
    for parameter in network.camera[2].parameters():
        parameter.data.zero_()
    alphabar = prior.alphabar[batch[1]][:, None, None, None]
    ours = network.predict(*batch, CAMERAS)
    torch.testing.assert_close(alphabar.sqrt() * raw + (1 - alphabar).sqrt() * batch[0], ours, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["camera.safetensors", "pytorch_lora_weights.safetensors"])
def test_a_flipped_bit_of_an_export_is_named(prior, tmp_path, name):
    network = ScoreNetwork(prior, camera=True)
    network.export(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 4
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not what SHA256SUMS says"):
        network.load_camera(tmp_path / "camera.safetensors")


def test_wrong_settings_are_named(prior):
    with pytest.raises(InputError, match="guidance.score.rank: 0"):
        ScoreNetwork(prior, rank=0)
    with pytest.raises(InputError, match="guidance.score.targets: to_nothing"):
        ScoreNetwork(prior, targets=("to_nothing",))


def test_a_state_of_another_rank_is_refused(prior):
    state = ScoreNetwork(DiffusionPrior(untrained_pipeline(VOCABULARY)), rank=2).state()
    with pytest.raises(InputError, match="does not fit; use"):
        ScoreNetwork(prior, rank=4).load_state(state)
