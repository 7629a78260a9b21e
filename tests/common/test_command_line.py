import errno
from pathlib import Path

import pytest

from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.errors import InputError


def parsed(*args):
    parser = OneLineArguments(prog="tool")
    parser.add_argument("--out", type=a_path)
    parser.add_argument("--count", type=int)
    return parser.parse_args(args)


@pytest.mark.parametrize("args", [["--out="], ["--out=a\0b"], ["--out=" + "x" * 5000], ["--count=1.5"], ["--bogus"]])
def test_wrong_arguments_are_one_line_that_names_the_option(capsys, args):
    with pytest.raises(SystemExit) as ended, one_line("tool"):
        parsed(*args)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("tool: ") and error.count("\n") == 1
    assert args[0].partition("=")[0] in error and len(error) < 500


@pytest.mark.parametrize(("raised", "code"), [
    (InputError("--out: no"), 2), (OSError(errno.ENOENT, "gone", "x"), 2), (OSError(errno.ENOSPC, "full", "x"), 1),
    (KeyboardInterrupt(), 130),
])  # fmt: skip
def test_the_exit_code_tells_a_wrong_input_from_a_full_disk(capsys, raised, code):
    with pytest.raises(SystemExit) as ended, one_line("tool"):
        raise raised
    assert ended.value.code == code and capsys.readouterr().err.startswith("tool: ")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), one_line("tool"):
        1 / 0  # noqa: B018


def test_a_place_that_can_be_written_to_is_left_as_it_was(tmp_path):
    (tmp_path / "there").mkdir()
    require_place("--out", tmp_path / "there")
    require_place("--out", tmp_path / "new" / "inside")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("place", ["file/inside", "file", "/proc/nowhere/inside"])
def test_a_place_that_cannot_be_written_to_is_refused_by_its_option(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out: .* cannot be written to"):
        require_place("--out", tmp_path / Path(place))
