"""Gives every command broken command lines and configurations, and prints how many were refused as they should be.

python tests/faults/bad_input.py [--each 3] [--seed 0] [--only vsd] [--every 1] [--part 0] [--record FILE] [--minutes 0]

The cases run in a second process, which is started anew where one kills it or hangs. With --record, what is found is
kept in a file, and a run that was stopped goes on from there. Ends with 1 where a case is not refused with code 2 and
one line that names the key, or leaves something.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "lightning_modules")]
MEMORY = 12 * 2**30  # bytes of address space that a case may take
LATEST = 90  # seconds after which the second process is killed
KINDS = {  # of what is wrong, by how it begins
    "traceback": "traceback",
    "hang": "hang",
    "killed": "hang",
    "let in": "accepted nonsense",
    "code": "other code",
    "not one line": "not one line",
    "something is left": "something is left",
}


def cases(options: argparse.Namespace) -> list:
    """The cases, in an order that both processes share."""
    from broken_lines import command_cases, stage_cases

    found = stage_cases(options.each, options.seed) + command_cases()
    return [case for case in found if re.search(options.only, case.program)][options.part :: options.every]


def work(options: argparse.Namespace, first: int, run: Path) -> None:
    """Tries the cases from one on, a line for each on the output, which is kept from what the cases print."""
    from refusals import nothing_works, problem

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    with nothing_works():
        for number, case in enumerate(cases(options)[first:], first):
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                wrong = problem(case, run)
                os.chdir(run)
            answers.write(f"{number}\t{' '.join((wrong or '').split())}\n")


def answers(options: argparse.Namespace, tried: list, run: Path) -> list[str]:
    """What is wrong with each case, "" for nothing; prints what is. Shorter than the cases where the time is over."""
    count, end = len(tried), time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    found = options.record.read_text().splitlines() if options.record and options.record.exists() else []
    record = open(options.record or os.devnull, "a", buffering=1)  # noqa: SIM115
    while len(found) < count and time.monotonic() < end:
        command = [sys.executable, __file__, *sys.argv[1:], "--first", str(len(found)), "--run", str(run)]
        worker = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"VSD_CACHE": str(run.parent / "cache")}
        )
        guard = threading.Timer(LATEST, worker.kill)
        guard.start()
        before = len(found)
        for line in worker.stdout:
            guard.cancel()
            found.append(line.partition("\t")[2].strip())
            print(found[-1], file=record)
            if found[-1]:
                print(f"{tried[len(found) - 1]}: {found[-1]}", flush=True)
            if time.monotonic() > end:
                worker.kill()
                break
            guard = threading.Timer(LATEST, worker.kill)
            guard.start()
        guard.cancel()
        code = worker.wait()
        if len(found) < count and time.monotonic() < end:
            if len(found) == before and code > 0:
                sys.exit(f"the second process ended with {code}")
            found.append(f"killed: the process ended with {code}")
            print(found[-1], file=record)
    return found


def main() -> None:
    """Runs the cases and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=3, help="values of a wrong type per option (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice (default: 0)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="programs whose name it matches (default: all)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one case in N (default: 1)")
    parser.add_argument("--part", type=int, default=0, help="which of these N parts, from 0 on (default: 0)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep what is found here, and go on from it")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many, 0 for never (default: 0)")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first is not None:
        return work(options, options.first, options.run)
    tried, begun = cases(options), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        subprocess.run([sys.executable, "-c", RUN, str(run)], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        found = answers(options, tried, run)
    counts: dict[str, Counter] = {}
    for case, wrong in zip(tried, found, strict=False):
        kind = next(
            (KINDS[start] for start in KINDS if wrong.startswith(start)), "key not named" if wrong else "refused"
        )
        counts.setdefault(case.program, Counter())[kind] += 1
    kinds = ["refused", *dict.fromkeys([*KINDS.values(), "key not named"])]
    print(f"\n{'program':<14}{'cases':>7}" + "".join(f"{kind:>19}" for kind in kinds))
    for program, row in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{program:<14}{row.total():>7}" + "".join(f"{row[kind]:>19}" for kind in kinds))
    print(f"{len(found)} of {len(tried)}, {time.monotonic() - begun:.0f} s")
    sys.exit(any(found))


# A small run to export and show, whose folder is the argument.
RUN = f"""
import sys
sys.path[:0] = {sys.path[:3]}
folder, sys.argv = sys.argv[1], ["vsd"]
from small_runs import UNSEEN, fit
fit(f"--trainer.default_root_dir={{folder}}", UNSEEN, steps=1)
"""

if __name__ == "__main__":
    main()
