"""How long a run takes from now on, by the speed that it has now.

A step that also trains phi takes longer than one that does not, and so may one of another resolution. Where the steps
that are left are of a kind that this stage has done, their measured speed counts. For the others the speed of now is
taken, with the ratio PHI where one kind trains phi and the other does not, and the time left is said to be "about".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

PHI = 2.0  # time of a step that trains phi, in those that do not


@dataclass(frozen=True)
class Part:
    """Steps that follow each other and take equally long.

    Args:
        steps: Their number, >= 0.
        phi: Whether they train phi.
    """

    steps: int
    phi: bool


class TimeLeft:
    """Measures the steps of a stage, and says how long the rest of the run takes.

    Args:
        parts: Of the stage, from its first step to its last.
        after: Of the stages that follow.
    """

    def __init__(self, parts: Sequence[Part], after: Sequence[Part] = ()):
        self.parts, self.after = list(parts), list(after)
        self.total = sum(part.steps for part in self.parts)
        self.speeds: dict[int, float] = {}  # seconds per step, by part
        self.index = -1

    def begin(self, step: int, now: float) -> None:
        """Starts to measure.

        Args:
            step: Steps of the stage that are done.
            now: Seconds of any clock.
        """
        self.index, self.done = self._part(step), step
        self.mark = self.last = step, now  # from where the speed of this part is measured

    def advance(self, step: int, now: float) -> None:
        """Counts steps.

        Args:
            step: Steps of the stage that are done, more than in the last call.
            now: Seconds of the same clock.
        """
        index = self._part(step - 1)
        if index != self.index:
            self.index, self.mark = index, self.last
        self.done = step
        self.last = step, now
        first, since = self.mark
        self.speeds[index] = (now - since) / (step - first)

    def skip(self, seconds: float) -> None:
        """Leaves out time in which the run waited for people.

        Args:
            seconds: Since the last call of `advance`.
        """
        (first, since), (step, now) = self.mark, self.last
        self.mark, self.last = (first, since + seconds), (step, now + seconds)

    @property
    def speed(self) -> float:
        """Seconds per step of this part."""
        return self.speeds[self.index]

    def left(self) -> tuple[float, bool]:
        """Seconds that are left, and whether all of them follow from measured speeds."""
        seconds, measured, end = 0.0, not any(part.steps for part in self.after), 0
        for index, part in enumerate(self.parts):
            end += part.steps
            steps = min(part.steps, max(0, end - self.done))
            seconds += steps * self.speeds.get(index, self._guess(part))
            measured &= not steps or index in self.speeds
        return seconds + sum(part.steps * self._guess(part) for part in self.after), measured

    def words(self) -> str:
        """The time left, such as "about 0:04:10 left"."""
        seconds, measured = self.left()
        return f"{'' if measured else 'about '}{timedelta(seconds=round(seconds))} left"

    def _guess(self, part: Part) -> float:
        """Seconds per step of a part that has not been measured."""
        return self.speed * PHI ** (part.phi - self.parts[self.index].phi)

    def _part(self, step: int) -> int:
        """The part in which a step lies, counted from 0."""
        for index, part in enumerate(self.parts):
            step -= part.steps
            if step < 0:
                return index
        return len(self.parts) - 1
