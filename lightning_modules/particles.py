"""Which particles a step moves."""

import numpy as np

from vsd.errors import InputError


class RoundRobin:
    """m of n particles a step, shuffled anew every round, so that all particles make equally many steps.

    A round moves every particle once; where m does not divide n, the last step of a round moves fewer.
    """

    def __init__(self, n: int, m: int, seed: int = 0):
        if n < 1:
            raise InputError(f"model.particles: {n}; at least 1 is needed")
        if not 1 <= m <= n:
            raise InputError(f"model.particles_per_step: {m} is not in 1 ... {n}, the number of particles")
        self.n, self.m, self.seed = n, m, seed
        self.steps_per_round = -(-n // m)

    def __call__(self, step: int) -> tuple[list[int], int]:
        """The particles of a trainer's step, and how many steps each of them has made before."""
        done, part = divmod(step, self.steps_per_round)
        order = np.random.default_rng([self.seed, done]).permutation(self.n)
        return order[part * self.m : (part + 1) * self.m].tolist(), done
