import math

import pytest
import torch

from toybox.prior.data import labels
from toybox.prior.stable_targets import Pools, posterior_mean, v_of_mean
from toybox.world.captions import EITHER_SIDE, SIDES, caption
from toybox.world.renders import load_renders


def test_the_posterior_mean_of_two_points_is_a_tanh():
    """Closed form: x_0 = +-a gives E[x_0 | x_t] = a tanh(alpha a x_t / sigma^2)."""
    x_t, a, alphabar = torch.linspace(-2, 2, 9)[:, None], 0.7, torch.full((9,), 0.4)
    candidates = torch.tensor([[a], [-a]]).expand(9, 2, 1)
    wanted = a * torch.tanh(alphabar.sqrt()[:, None] * a * x_t / 0.6)
    torch.testing.assert_close(posterior_mean(x_t, candidates, alphabar), wanted)


def test_the_posterior_mean_agrees_with_a_loop_also_under_autocast():
    noisy, candidates, alphabar = torch.randn(3, 2, 4, 4), torch.randn(3, 6, 2, 4, 4), torch.tensor([0.01, 0.3, 0.9])
    with torch.autocast("cpu", torch.bfloat16):
        found = posterior_mean(noisy, candidates, alphabar)
    for row in range(3):
        variance = 1 - float(alphabar[row])
        distances = [float((noisy[row] - alphabar[row].sqrt() * x).square().sum()) for x in candidates[row]]
        densities = [math.exp(-(d - min(distances)) / (2 * variance)) for d in distances]
        mean = sum(w * x for w, x in zip(densities, candidates[row], strict=True)) / sum(densities)
        torch.testing.assert_close(found[row], mean, atol=1e-5, rtol=1e-4)


def test_pure_noise_weighs_all_candidates_alike():
    candidates = torch.randn(2, 5, 3)
    found = posterior_mean(torch.randn(2, 3), candidates, torch.zeros(2))
    torch.testing.assert_close(found, candidates.mean(1))


def test_stable_and_plain_targets_have_the_same_mean_given_the_noisy_latent_and_stable_less_variance():
    """So the same minimiser: E[target f(x_t)] is the same for every function f."""
    count, alphabar = 200_000, torch.tensor([0.3])
    points = torch.tensor([[-1.0, 0.5], [0.2, 1.5], [1.0, -0.7]], dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    picks = torch.randint(3, (count, 4), generator=draws)
    x_0 = points[picks]  # (N, 4, 2): the origin and three references, with replacement
    noise = torch.randn(count, 2, generator=draws, dtype=torch.float64)
    noisy = alphabar.sqrt() * x_0[:, 0] + (1 - alphabar).sqrt() * noise
    plain = v_of_mean(noisy, x_0[:, 0], alphabar)
    torch.testing.assert_close(plain, alphabar.sqrt() * noise - (1 - alphabar).sqrt() * x_0[:, 0])
    stable = v_of_mean(noisy, posterior_mean(noisy, x_0, alphabar.expand(count)), alphabar)
    for f in (torch.ones_like, lambda x: x, torch.tanh, lambda x: (x > 0.3).to(x)):
        difference = (stable - plain) * f(noisy)
        error = difference.std(0) / count**0.5
        assert (difference.mean(0).abs() < 4 * error).all()
    truth = v_of_mean(noisy, posterior_mean(noisy, points.expand(count, 3, 2), alphabar.expand(count)), alphabar)
    variance = [(target - truth).square().mean().item() for target in (plain, stable)]
    assert variance[1] < 0.4 * variance[0]


@pytest.fixture
def renders(cache):
    return load_renders(384, workers=1)


def test_pools_hold_what_their_captions_say(renders):
    pools = Pools(renders)
    every = torch.arange(384)
    rows = [row for flip in (0, 1) for row in zip(*labels(renders, every, torch.full((384,), bool(flip))), strict=True)]

    def pool(text):
        row = pools.row[text]
        return set(pools.members[pools.start[row] : pools.start[row] + pools.size[row]].tolist())

    assert pool("") == set(range(768))
    assert pool(caption("car", "red")) == {i for i, row in enumerate(rows) if row[:2] == ("car", "red")}
    name, colour, view = next(row for row in rows if row[2] in SIDES)
    assert pool(caption(name, colour, view)) == {i for i, row in enumerate(rows) if row == (name, colour, view)}
    either = {i for i, row in enumerate(rows) if row[:2] == (name, colour) and row[2] in SIDES}
    assert pool(caption(name, colour, EITHER_SIDE)) == either


def test_draws_are_uniform_over_the_pool_of_each_caption(renders):
    pools = Pools(renders)
    texts = [caption("car", "red"), ""]
    drawn = pools.draw(texts, 40_000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 40_000)
    for k, text in enumerate(texts):
        row = pools.row[text]
        members = pools.members[pools.start[row] : pools.start[row] + pools.size[row]]
        counts = torch.bincount(drawn[k], minlength=768)[members].float()
        assert counts.sum() == 40_000, "nothing else is drawn"
        expected = 40_000 / len(members)
        assert (counts - expected).abs().max() < 5 * expected**0.5
