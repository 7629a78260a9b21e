"""Where a stage stands in a run of `dream`, which tells its stages through their environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from lightning_modules.run.time_left import Part

PLACE = "VSD_PLACE"  # in the environment


@dataclass(frozen=True)
class Place:
    """Where a stage stands among those that run one after the other.

    Args:
        name: Of the stage; empty for a run of its own.
        number: Of the stage, from 1.
        stages: Number of stages.
        before: Steps of the stages before it.
        after: What the stages after it do.
        quiet: Whether no progress is told.
    """

    name: str = ""
    number: int = 1
    stages: int = 1
    before: int = 0
    after: list[Part] = field(default_factory=list)
    quiet: bool = False

    @property
    def words(self) -> str:
        """Such as "2/3 geometry"; empty for a run of its own."""
        return f"{self.number}/{self.stages} {self.name}" if self.name else ""

    def environment(self) -> dict[str, str]:
        """What the process of the stage gets."""
        return {PLACE: json.dumps(asdict(self))}


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process.

    Args:
        environment: In which `dream` has written it, or has not.
    """
    if not environment.get(PLACE):
        return Place()
    given = json.loads(environment[PLACE])
    return Place(**given | {"after": [Part(**part) for part in given["after"]]})
