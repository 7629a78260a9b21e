"""Which particles a step of the trainer moves."""

import numpy as np

from common.checks import require_range
from common.errors import InputError

LARGEST = 10_000  # number of particles


class RoundRobin:
    """Picks m of n particles per step, shuffled anew every round, so that all particles make equally many steps.

    A round moves every particle of a rank once; where m does not divide their number, the last step of a round moves
    fewer.

    Attributes:
        own: The particles that this rank moves.
        rendered: Those of which it is the first rank, in pictures and checkpoints.
        together: The ranks of every particle that several of them may move.

    Args:
        n: Number of particles, >= 1.
        m: Particles that a step moves, in 1 ... n.
        seed: Of the order, >= 0.

    Raises:
        InputError: n or m is impossible.
    """

    def __init__(self, n: int, m: int, seed: int = 0):
        require_range("model.seed", seed, 0)
        if n < 1:
            raise InputError(f"model.particles: {n}; at least 1 is needed")
        require_range("model.particles", n, 1, LARGEST)
        if not 1 <= m <= n:
            raise InputError(f"model.particles_per_step: {m} is not in 1 ... {n}, the number of particles")
        self.n, self.m, self.seed = n, m, seed
        self.start = 0, 0  # a trainer's step with which a round began, and how many rounds were before
        self.set_rank(0, 1)

    def set_rank(self, rank: int, world: int) -> None:
        """Restricts the order to the particles of one of several ranks.

        Every rank gets floor(n / world) particles for itself. Those that are left over are each moved by several ranks
        together, in the same steps, so that all ranks have equally many particles and none of them waits.

        Args:
            rank: Of this process, in 0 ... world - 1.
            world: Number of ranks.

        Raises:
            InputError: A step should move more particles than a rank has.
        """
        alone, left = self.n // world * world, self.n % world  # particles of one rank each, and of several ranks
        self.own = list(range(rank, alone, world)) + ([alone + rank % left] if left else [])
        self.rendered = [i for i in self.own if i % world == rank]  # by this rank alone, also where several train one
        self.together = {alone + i: list(range(i, world, left)) for i in range(left)}  # the ranks of those left over
        if self.m > len(self.own):
            raise InputError(
                f"model.particles_per_step: {self.m} is more than the {len(self.own)} of {self.n} particles that each "
                f"of {world} devices has"
            )
        self.steps_per_round = -(-len(self.own) // self.m)

    def state(self) -> dict:
        """Plain values, for a checkpoint, from which `resume` continues."""
        return {"start": list(self.start), "steps_per_round": self.steps_per_round}

    def resume(self, state: dict, step: int) -> None:
        """Continues the order of a checkpoint.

        Args:
            state: Of `state`.
            step: The trainer's step at which the run resumes. A round that another number of ranks has begun counts
                as finished.
        """
        self.start = tuple(state["start"])
        if state["steps_per_round"] != self.steps_per_round:
            first, before = self.start
            self.start = step, before + -(-(step - first) // state["steps_per_round"])

    def step_after(self, rounds: int) -> int:
        """The trainer's step before which every particle of this rank has made so many steps.

        Args:
            rounds: Steps of each particle, no fewer than at the start or the last `resume`.
        """
        first, before = self.start
        return first + (rounds - before) * self.steps_per_round

    def __call__(self, step: int) -> tuple[list[int], int]:
        """The particles of a step.

        Args:
            step: The trainer's.

        Returns:
            Indices of the particles, and how many steps each of them has made before.
        """
        first, before = self.start
        done, part = divmod(step - first, self.steps_per_round)
        order = np.random.default_rng([self.seed, before + done]).permutation(self.own)
        return order[part * self.m : (part + 1) * self.m].tolist(), before + done
