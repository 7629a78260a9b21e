"""constraints.txt pins everything that the extra `dev` installs, what that needs in turn included."""

import configparser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def needed():
    """The names of what `dev` installs; of a package that is not installed here its own name alone."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["dev"]
    open_, seen = [Requirement(line) for line in lines.split("\n") if line], set()
    while open_:
        asked = open_.pop()
        if (asked.name, *sorted(asked.extras)) in seen:
            continue
        seen.add((asked.name, *sorted(asked.extras)))
        if asked.name == "prolific":
            own = [setup["options.extras_require"][extra] for extra in asked.extras]
            open_ += [Requirement(line) for text in own for line in text.split("\n") if line and line[0] != "#"]
            continue
        try:
            following = [Requirement(line) for line in distribution(asked.name).requires or []]
        except PackageNotFoundError:
            continue
        extras = [*asked.extras, ""]
        open_ += [r for r in following if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return {canonicalize_name(name) for name, *_ in seen} - {"prolific"}


def test_everything_that_dev_installs_is_pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    assert list(pinned) == sorted(pinned), "in order"
    missing = needed() - {canonicalize_name(name) for name in pinned}
    # CUDA's libraries come with one build of torch on Linux alone and are that build's own.
    assert not {name for name in missing if not name.startswith(("nvidia-", "cuda-", "triton"))}
