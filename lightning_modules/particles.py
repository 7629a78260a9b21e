"""Which particles a step moves."""

import numpy as np

from common.errors import InputError


class RoundRobin:
    """m of n particles a step, shuffled anew every round, so that all particles make equally many steps.

    A round moves every particle of a rank once; where m does not divide their number, the last step of a round moves
    fewer.
    """

    def __init__(self, n: int, m: int, seed: int = 0):
        if n < 1:
            raise InputError(f"model.particles: {n}; at least 1 is needed")
        if not 1 <= m <= n:
            raise InputError(f"model.particles_per_step: {m} is not in 1 ... {n}, the number of particles")
        self.n, self.m, self.seed = n, m, seed
        self.start = 0, 0  # a trainer's step with which a round began, and how many rounds were before
        self.of_rank(0, 1)

    def of_rank(self, rank: int, world: int) -> None:
        """From now on, the particles of one of several ranks; InputError where they cannot be dealt out evenly."""
        if self.n % world and world % self.n:
            raise InputError(
                f"model.particles: {self.n} cannot be dealt out evenly to {world} devices; make one of the numbers a "
                "multiple of the other"
            )
        self.own = [i for i in range(self.n) if i % world == rank % self.n]
        if self.m > len(self.own):
            raise InputError(
                f"model.particles_per_step: {self.m} is more than the {len(self.own)} of {self.n} particles that each "
                f"of {world} devices has"
            )
        self.steps_per_round = -(-len(self.own) // self.m)

    def state(self) -> dict:
        """What `go_on` needs."""
        return {"start": list(self.start), "steps_per_round": self.steps_per_round}

    def go_on(self, state: dict, step: int) -> None:
        """Goes on at a trainer's step; a round that another number of ranks has begun counts as whole."""
        self.start = tuple(state["start"])
        if state["steps_per_round"] != self.steps_per_round:
            first, before = self.start
            self.start = step, before + -(-(step - first) // state["steps_per_round"])

    def __call__(self, step: int) -> tuple[list[int], int]:
        """The particles of a trainer's step, and how many steps each of them has made before."""
        first, before = self.start
        done, part = divmod(step - first, self.steps_per_round)
        order = np.random.default_rng([self.seed, before + done]).permutation(self.own)
        return order[part * self.m : (part + 1) * self.m].tolist(), before + done
