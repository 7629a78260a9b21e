"""Random numbers that are a function of where in a run they are drawn, so that a resumed run draws the same."""

import numpy as np
import torch


def generator(device: torch.device | str, *words: int) -> torch.Generator:
    """A generator on `device` seeded with the words, say (seed, rank, step), each >= 0."""
    state = np.random.SeedSequence(words).generate_state(2)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))
