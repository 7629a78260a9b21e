"""What VSD is for, in figures: python -m evaluation.claims [--quick] [--only PART...] [--out FOLDER].

--prompts, --kinds, --scales, --particles, --steps and --seeds choose other runs than the parts' plans.

2d: SDS, VSD and CSD at several scales and seeds, particles as images. phi: VSD in 2D with phi trained too little and
too much, and whether phi's health (see `vsd.health`) foretells the quality. switches: what savings of a step, and a
learning rate of phi that its health sets, change of the quality. particles: more of them in 2D. steps: fewer and more
steps in 2D. preset, best: the NeRF of the presets toybox and toybox-best on prompts that they were not tuned on.
cameras: a phi that is told less of them in 3D, and cameras that are wrong. 3d: SDS and VSD at several scales and
numbers of particles, particles as NeRFs, with equal steps and in equal time. Runs are kept in FOLDER/runs, those of
each prior in a folder of their own; a command that was stopped continues, and what is there is not run again. Each part
writes a CSV file of all runs, a table with intervals (Markdown), and pictures (PNG).
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from common.checks import require_range
from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError
from common.files import atomic_write
from evaluation import (
    claims_2d,
    claims_3d,
    claims_cameras,
    claims_particles,
    claims_phi,
    claims_preset,
    claims_steps,
    claims_switches,
)
from evaluation.claims_report import write_report
from evaluation.particles_2d import Setting
from evaluation.particles_3d import KINDS
from evaluation.prior_samples import fingerprint
from toybox.world.captions import parse_prompt
from vsd.prior import TOYBOX, load_pipeline

PARTS = ("2d", "phi", "switches", "particles", "steps", "preset", "best", "cameras", "3d")
PARTS_2D = {  # which have rows and a report of their own
    "phi": claims_phi,
    "switches": claims_switches,
    "particles": claims_particles,
    "steps": claims_steps,
}


def main(args: list[str] | None = None) -> None:
    """Runs what is missing, and writes the reports.

    Args:
        args: Of the command line; None for the process's own.
    """
    parser = OneLineArguments(prog="claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer prompts, scales, particles, seeds and steps")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts (default: all)")
    parser.add_argument("--out", type=a_path, default=Path("runs/claims"), help="folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, help="how many; one has no interval")
    parser.add_argument("--prompts", nargs="+", help="objects with colours, of 2d, steps, preset, best and 3d")
    parser.add_argument("--kinds", nargs="+", help="methods of 2d and 3d, such as sds, vsd, 'vsd, decay'")
    parser.add_argument("--scales", nargs="+", type=float, help="of classifier-free guidance, of 2d and 3d")
    parser.add_argument("--particles", nargs="+", type=int, help="numbers of particles, of 2d, particles and 3d")
    parser.add_argument("--steps", type=int, help="of each particle, of 2d and 3d")
    with one_line("claims"):
        options = parser.parse_args(args)
        require_range("--seeds", options.seeds, 1, 1000)
        require_range("--steps", options.steps, 1, 1_000_000)
        require_place("--out", options.out)
        flat, solid = (claims_2d.QUICK, claims_3d.QUICK) if options.quick else (claims_2d.FULL, claims_3d.FULL)
        chosen = chosen_of(options)
        flat, solid = replace(flat, **chosen), replace(solid, **chosen)
        folder = options.out / "runs" / fingerprint(load_pipeline(TOYBOX))  # another prior makes other runs
        if "2d" in options.only:
            measured = claims_2d.measure(flat, folder)
            write_rows(measured[0], options.out / "2d.csv")
            write_report("2d", measured, options.out)
        for part, module in PARTS_2D.items():
            if part in options.only:
                measured = claims_2d.measure_part(part, runs_of(part, options, chosen), folder)
                write_rows(measured[0], options.out / f"{part}.csv")
                module.write_report(measured, options.out)
        if "cameras" in options.only:
            measured = claims_cameras.measure(claims_cameras.settings(options.quick, options.seeds), folder)
            write_rows(measured[0], options.out / "cameras.csv")
            claims_cameras.write_report(measured, options.out)
        for part in [part for part in claims_preset.PRESETS if part in options.only]:
            prompts = chosen.get("prompts", claims_preset.PROMPTS)
            runs = claims_preset.settings(part, options.quick, options.seeds, prompts)
            measured = claims_preset.measure(runs, folder)
            write_rows(measured[0], options.out / f"{part}.csv")
            claims_preset.write_report(part, measured, options.out)
        if "3d" in options.only:
            measured = claims_3d.measure(solid, folder)
            write_rows(measured[0], options.out / "3d.csv")
            write_report("3d", measured, options.out)


def runs_of(part: str, options: argparse.Namespace, chosen: dict) -> list[Setting]:
    """The runs of a part whose particles are images.

    Args:
        part: A key of PARTS_2D.
        options: Of the command line.
        chosen: Of `chosen_of`.
    """
    if part == "phi":
        return claims_phi.settings(options.quick)
    if part == "switches":
        runs = claims_switches.savings(options.seeds or claims_switches.SEEDS) + claims_switches.rates()
        return runs[::6] if options.quick else runs
    if part == "particles":
        numbers = chosen.get("particles", claims_particles.PARTICLES)
        return claims_particles.settings(options.quick, options.seeds, numbers)
    return claims_steps.settings(options.quick, options.seeds, chosen.get("prompts", claims_steps.PROMPTS))


def chosen_of(options: argparse.Namespace) -> dict:
    """What the command line says in the place of a plan: values of claims_2d.Plan and claims_3d.Plan3D by name.

    Args:
        options: Of the command line.

    Raises:
        InputError: There is no such prompt, method, scale or number of particles.
    """
    chosen = {name: getattr(options, name) for name in ("prompts", "kinds", "scales", "particles")}
    chosen = {name: tuple(values) for name, values in chosen.items() if values}
    for prompt in chosen.get("prompts", ()):
        try:
            parse_prompt(prompt)
        except InputError as error:
            raise InputError(f"--prompts: {error}") from error
    methods = {"2d": claims_2d.KINDS, "3d": tuple(KINDS)}
    for part in methods.keys() & set(options.only):
        for kind in chosen.get("kinds", ()):
            if kind not in methods[part]:
                known = "; ".join(methods[part])
                raise InputError(f"--kinds: '{kind}' is no method of {part}; use --only {part} with one of: {known}")
    for scale in chosen.get("scales", ()):
        require_range("--scales", scale, 0.0, 1000.0)
    for number in chosen.get("particles", ()):
        require_range("--particles", number, 1, 1000)
    numbers = {"seeds": options.seeds, "steps": options.steps}
    return chosen | {name: number for name, number in numbers.items() if number is not None}


def write_rows(rows: list[dict], path: Path) -> None:
    """Writes rows as CSV."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
