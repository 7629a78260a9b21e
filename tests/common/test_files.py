import subprocess

import pytest

from common.errors import InputError
from common.files import SUMS, atomic_write, require_checksums, write_checksums


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "file") as part:
        part.write_text("new")
        1 / 0  # noqa: B018
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_every_flipped_bit_of_a_folder_is_found_by_name(tmp_path):
    (tmp_path / "unet").mkdir()
    files = [tmp_path / "unet" / "weights", tmp_path / "config"]
    for file in files:
        file.write_bytes(bytes(range(64)))
    require_checksums(tmp_path, "guidance.model")  # has none yet
    write_checksums(tmp_path, files)
    require_checksums(tmp_path, "guidance.model")
    assert subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path, capture_output=True).returncode == 0
    for file in files:
        good = file.read_bytes()
        for place in range(len(good)):
            file.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
            with pytest.raises(InputError, match=f"guidance.model: {file} is not what {SUMS} says"):
                require_checksums(tmp_path, "guidance.model")
        file.write_bytes(good)
    files[0].unlink()
    with pytest.raises(InputError, match=f"{files[0]} is missing"):
        require_checksums(tmp_path, "guidance.model")
