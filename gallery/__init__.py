"""Pages that show runs: index.html in a run folder, and one page that compares many; they open without a network."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  pip checks this, a checkout does not
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    sys.stderr.write(f"prolific: Python 3.10 or newer is needed, this is {here}\n")
    sys.exit(2)
