"""Do a toybox prior's samples show the parts? python -m evaluation.prior_parts [OBJECT...] [--prior FOLDER].

The part-recall gate of the prior, apart from the other gates (`toybox.prior.gates`) for its time: the judge of an
object's parts takes two to three minutes of a core the first time, and so do 128 samples. Prints one row per object, in
its first colour and eight views, with the recall of other true instances beside it; exits with 1 where the samples find
less than 0.9 of the truth's. The true instances are seen by random cameras of the same view words, since a sample of "a
red tree, front view" may be seen from above, where the crown hides the trunk.
"""

import sys

from common.command_line import OneLineArguments, one_line
from evaluation.measures import truth_for
from evaluation.parts import found_in, part_recall, shown_by
from evaluation.pictures import INSTANCES, captioned_instances, look_cameras
from evaluation.prior_samples import COUNT, prior_samples
from evaluation.runs import DISTANCE, FOVY
from evaluation.truth_distance import VIEWS
from toybox.judges.parts_training import parts_judge
from toybox.world.objects import COLOURS, OBJECTS, chosen_objects
from vsd.prior import TOYBOX, load_pipeline

GOAL = 0.9  # of the truth's recall


def recalls(name: str, colour: str, prior: str) -> tuple[float | None, float | None]:
    """Part recall of the prior's samples and of other true instances, of the parts that are seen from 15 degrees above.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        prior: A folder, or "toybox".

    Returns:
        Both in [0, 1]; None for an object without named parts.
    """
    cameras = look_cameras(VIEWS, DISTANCE, FOVY)
    judge, shown = parts_judge(name), shown_by(truth_for(name, colour, cameras))
    samples = prior_samples(prior, name, colour, cameras)
    others = captioned_instances(name, colour, cameras, COUNT, INSTANCES).over(samples.background)
    return tuple(part_recall(found_in(pictures, judge), shown) for pictures in (samples, others))


def main(args: list[str] | None = None) -> None:
    """The command.

    Args:
        args: The arguments, by default the program's.
    """
    parser = OneLineArguments(prog="prior_parts", description=__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="*", metavar="OBJECT", help=f"of {', '.join(OBJECTS)} (default: all)")
    parser.add_argument("--prior", default=TOYBOX, help="a folder, or 'toybox', the shipped prior (default)")
    colour, short = next(iter(COLOURS)), 0
    with one_line("prior_parts"):
        options = parser.parse_args(args)
        names = chosen_objects(options.objects)
        load_pipeline(options.prior, key="--prior")  # before minutes are spent on a judge
        print(f"{'object':<12}{'samples':>9}{'truth':>9}{'ratio':>9}   goal {GOAL}")
        for name in names:
            of_samples, of_truth = recalls(name, colour, options.prior)
            if not of_truth:
                print(f"{name:<12}{'no named parts':>27}")
                continue
            ratio = of_samples / of_truth
            short += ratio < GOAL
            short_of = "   SHORT" if ratio < GOAL else ""
            print(f"{name:<12}{of_samples:>9.3f}{of_truth:>9.3f}{ratio:>9.3f}{short_of}", flush=True)
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
