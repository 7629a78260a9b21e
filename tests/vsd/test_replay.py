"""The replay of latents: what it keeps, what it draws, and that a resumed one continues."""

import pytest
import torch
from test_guidance import Stage, guidance, trainer

from common.errors import InputError
from vsd.replay import Replay
from vsd.score_trainer import ScoreSettings
from vsd.views import View


def numbered(*numbers):
    """Latents and cameras that hold nothing but their numbers."""
    numbers = torch.tensor(numbers, dtype=torch.float32)
    return numbers.view(-1, 1, 1, 1).expand(-1, 8, 16, 16), numbers.view(-1, 1, 1).expand(-1, 4, 4)


def names(pair):
    latents, cameras = pair
    assert torch.equal(latents[:, 0, 0, 0], cameras[:, 0, 0]), "a latent keeps its camera"
    return latents[:, 0, 0, 0].tolist()


def test_the_newest_are_taken_until_it_is_full_and_then_any_of_the_last():
    replay, draws = Replay(5), torch.Generator().manual_seed(0)
    for first in (0, 2):
        replay.add(*numbered(first, first + 1))
        assert names(replay.draw(2, draws)) == [first, first + 1]
    replay.add(*numbered(4, 5))
    assert names(replay.kept) == [1, 2, 3, 4, 5]
    drawn = torch.tensor([names(replay.draw(2, draws)) for _ in range(1000)])
    counts = torch.bincount(drawn.flatten().long())
    assert counts[0] == 0 and ((counts[1:] - 400).abs() < 90).all(), "1 ... 5, each with the same chance"


def test_phi_learns_from_what_is_drawn_and_a_resumed_run_continues(untrained_prior):
    where = View(torch.zeros(1, 4, 4), torch.zeros(1), torch.zeros(1))

    def start(state=None):
        callback = guidance(untrained_prior, score=ScoreSettings(replay=3, warmup=1))
        if state:
            callback.load_state_dict(state)
        callback.setup(trainer(), Stage(), "fit")
        return callback

    def learn(callback, steps):
        seen = []
        update = callback.trainer.update
        callback.trainer.update = lambda x_0, *rest: seen.append(x_0[0, 0, 0, 0].item()) or update(x_0, *rest)
        for step in steps:
            callback.particle_loss(torch.full((1, 8, 16, 16), float(step)), where, torch.tensor([step]))
            callback.update_score()
        callback.trainer.update = update
        return seen

    whole, part = start(), start()
    seen = learn(whole, range(12))
    assert seen[:2] == [0, 1] and all(step - 3 < x <= step for step, x in enumerate(seen))
    assert seen != list(range(12)), "not always the last"
    learn(part, range(6))
    rest = start(part.state_dict())
    assert learn(rest, range(6, 12)) == seen[6:]
    ours, theirs = (list(callback.trainer.network.parameters()) for callback in (whole, rest))
    assert ours and all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


def test_wrong_sizes_are_named(untrained_prior):
    with pytest.raises(InputError, match="guidance.score.replay: -1"):
        ScoreSettings(replay=-1)
    with pytest.raises(InputError, match="guidance.score.replay: a shared forward"):
        ScoreSettings(replay=2, shared_forward=True)
    big, small = Replay(4), Replay(2)
    big.add(*numbered(0, 1, 2))
    with pytest.raises(InputError, match="the checkpoint holds 3 latents"):
        small.load_state_dict(big.state_dict(), torch.device("cpu"))
