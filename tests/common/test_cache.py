import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from common.cache import cached, read_cached, write_cached
from common.errors import InputError

TENSORS = {"rgb": torch.arange(6, dtype=torch.uint8).view(2, 3), "mask": torch.tensor(True), "none": torch.zeros(0, 2)}
TENSORS |= {"half": torch.randn(3).bfloat16()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_tensors_are_made_once(tmp_path):
    calls = []
    for _ in range(2):
        assert same(cached(tmp_path / "a" / "b", lambda: calls.append(1) or TENSORS), TENSORS)
    assert calls == [1] and [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_every_flipped_bit_is_found_and_told(tmp_path, caplog):
    """Or changes nothing that is read, as in the padding of the header."""
    write_cached(tmp_path / "good", TENSORS, "size 3")
    content, found = (tmp_path / "good").read_bytes(), 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "bad").write_bytes(flipped)
        caplog.clear()
        read = read_cached(tmp_path / "bad", "size 3")
        assert same(read, TENSORS) if read is not None else "bad is damaged" in caplog.text
        found += read is None
    assert found > 0.8 * len(content)


@pytest.mark.parametrize("content", [b"", b"123", b"x" * 1000, bytes(range(256)) * 9])
def test_what_is_no_cache_is_made_anew(tmp_path, caplog, content):
    (tmp_path / "file").write_bytes(content)
    assert same(cached(tmp_path / "file", lambda: TENSORS), TENSORS)
    assert "is damaged" in caplog.text and same(read_cached(tmp_path / "file"), TENSORS)


def test_a_file_of_other_settings_is_refused_and_one_without_a_checksum_is_read(tmp_path):
    write_cached(tmp_path / "file", TENSORS, "size 3")
    with pytest.raises(InputError, match=r"other settings \(size 3\); delete it"):
        read_cached(tmp_path / "file", "size 4")
    save_file(TENSORS, tmp_path / "old", metadata={"settings": "size 3"})
    assert same(read_cached(tmp_path / "old", "size 3"), TENSORS)


def test_a_folder_that_cannot_be_written_costs_a_line(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert same(cached(tmp_path / "file" / "cache", lambda: TENSORS), TENSORS)
    assert "set VSD_CACHE" in caplog.text


FILL = """
import sys, torch
from pathlib import Path
from common.cache import cached
for i in range(20):
    again = cached(Path(sys.argv[1]) / f"{i}.safetensors", lambda: {"a": torch.full((50_000,), float(i))})
    assert torch.equal(again["a"], torch.full((50_000,), float(i)))
"""


def test_two_processes_that_fill_a_cold_cache_at_once_both_get_it_and_leave_one_file(tmp_path):
    """As two runs do that start together; each writes beside the target and renames."""
    processes = [subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{i}.safetensors" for i in range(20))
