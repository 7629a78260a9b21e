"""A sample of the generated broken command lines; `make bad-input` tries all of them."""

import pytest
from broken_lines import command_cases, sample, stage_cases
from refusals import nothing_works, problem


@pytest.fixture(scope="module")
def cases():
    return stage_cases(), command_cases()


def test_there_are_many_cases_of_every_command_and_none_is_twice(cases):
    stages, commands = cases
    assert len({str(case) for case in stages}) >= 600 and len(commands) >= 400
    assert {case.program for case in commands} >= {"dream", "vsd export", "toybox", "score", "claims", "gates", "half"}


@pytest.mark.parametrize(("kind", "count"), [(0, 20), (1, 40)], ids=["stages", "commands"])
def test_broken_command_lines_are_refused_in_one_line_that_names_the_key(cases, whole, elsewhere, kind, count):
    with nothing_works():
        tried = sample(cases[kind], count)
        wrong = {str(case): found for case in tried if (found := problem(case, whole))}
    assert not wrong, "\n".join(f"{case}: {found}" for case, found in wrong.items())
