import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from small_fits import checkpoint, fit

from toybox.prior.stable_targets import Pools, posterior_mean
from toybox.prior.unet import ToyboxUnet
from toybox.world.captions import caption
from toybox.world.renders import load_renders


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vsd"])


def test_every_weight_of_the_unet_and_the_text_tower_gets_a_gradient(untrained_prior, cache, tmp_path):
    """Inner blocks without one learn nothing, and nothing but the samples shows it."""
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    fit("prior", folder, "--model.warmup=1", "--trainer.callbacks.every=2", steps=3)
    saved = torch.load(checkpoint("prior", folder), weights_only=True)
    moments = saved["optimizer_states"][0]["state"]
    still = [index for index, state in moments.items() if not state.get("momentum", state.get("exp_avg_sq")).any()]
    assert len(moments) == len(saved["current_model_state"]) and not still


def test_a_compiled_unet_without_inner_gradients_is_refused(untrained_prior, cache, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)

    def broken(network, **options):
        def forward(*args):
            hook = network.mid_block.register_forward_hook(lambda _, __, out: out.detach())
            out = network(*args)
            hook.remove()
            return out

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(SystemExit) as ended:
        fit("prior", folder, "--model.compile=true")
    assert ended.value.code == 2
    assert "model.compile: the compiled network's gradient of" in capsys.readouterr().err


class Compiled(torch.nn.Module):
    """Like torch.compile's result, which has the methods of every container and passes them on."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def __len__(self):
        raise TypeError("UNet2DConditionModel does not support len()")

    def forward(self, *args):
        self.calls += 1
        return self.network(*args)


def test_a_compiled_unet_is_what_the_training_calls(untrained_prior, cache, tmp_path, monkeypatch):
    folder, made = tmp_path / "prior", []
    shutil.copytree(untrained_prior, folder)

    def compiled(network, **options):
        made.append(Compiled(network))
        return made[0]

    monkeypatch.setattr(torch, "compile", compiled)
    fit("prior", folder, "--model.compile=true", steps=2)
    assert len(made) == 1 and made[0].calls == 2 + 2  # two of the check, two of the steps


def test_the_power_of_t_goes_linearly_over_the_training():
    unet = ToyboxUnet(t_power=0.5, late_t_power=1.5)
    powers = []
    for step in (0, 25, 100):
        unet._trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=100)
        unet._fabric = None
        powers.append(unet.power())
    assert powers == [0.5, 0.75, 1.5]


@pytest.fixture
def unet(cache):
    """A module with latents of its own, for its targets alone."""
    module = ToyboxUnet(references=5, stable_from=600)
    renders = load_renders(96, workers=1)
    module.latents = torch.randn(192, 2, 4, 4)
    module.alphabar = torch.linspace(0.999, 0, 1000)
    module.pools = Pools(renders)
    return module


def test_targets_are_stable_from_stable_from_on_alone(unet):
    t = torch.tensor([0, 599, 600, 999])
    latents, noise = unet.latents[:4], torch.randn(4, 2, 4, 4)
    captions = ["", caption("car", "red"), caption("car", "red"), ""]
    noisy, plain = unet.noised(latents, t, noise)
    stable = unet.stable(plain, noisy, latents, captions, t, torch.Generator().manual_seed(0))
    assert torch.equal(stable[:2], plain[:2]) and not torch.allclose(stable[2:], plain[2:], atol=1e-3)
    unet.pools = None
    assert unet.stable(plain, noisy, latents, captions, t, torch.Generator()) is plain


def test_a_stable_target_is_v_of_the_posterior_mean_of_the_drawn_pictures(unet):
    """v = alpha eps - sigma x_0, eps being what noise the mean leaves."""
    t, captions = torch.tensor([700]), [caption("duck", "green")]
    latents, noise = unet.latents[3:4], torch.randn(1, 2, 4, 4)
    noisy, plain = unet.noised(latents, t, noise)
    stable = unet.stable(plain, noisy, latents, captions, t, torch.Generator().manual_seed(1))
    drawn = unet.pools.draw(captions, 5, torch.Generator().manual_seed(1))
    alphabar = unet.alphabar[t]
    mean = posterior_mean(noisy, torch.cat([latents[:, None], unet.latents[drawn]], 1), alphabar)
    alpha, sigma = alphabar.sqrt(), (1 - alphabar).sqrt()
    torch.testing.assert_close(stable, alpha * (noisy - alpha * mean) / sigma - sigma * mean)
