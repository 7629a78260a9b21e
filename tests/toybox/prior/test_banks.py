import torch

from toybox.prior import banks as module
from toybox.prior.banks import load_banks, truth_bank

PROMPTS = [("car", "red", 0), ("duck", "blue", 3)]


def test_banks_are_rendered_once_alone_or_by_processes(tmp_path, monkeypatch):
    found = load_banks(PROMPTS, 3, tmp_path / "a")
    assert found.shape == (2, 3, 4, 64, 64) and found.dtype == torch.uint8
    for bank, prompt in zip(found, PROMPTS, strict=True):
        assert torch.equal(bank, truth_bank(*prompt, 3))
    monkeypatch.setattr(module, "truth_bank", None)
    assert torch.equal(load_banks(PROMPTS, 3, tmp_path / "a"), found)
    monkeypatch.undo()
    monkeypatch.setattr(module, "ALONE", 1)
    assert torch.equal(load_banks(PROMPTS, 3, tmp_path / "b"), found)


def test_instances_of_a_bank_differ(tmp_path):
    bank = truth_bank("car", "red", 0, 3)
    assert not torch.equal(bank[0], bank[1]) and not torch.equal(bank[0], truth_bank("car", "red", 0, 1, first=7)[0])
    assert (bank[:, 3] == 255).flatten(1).any(1).all(), "each shows its object"


def test_a_damaged_file_is_made_anew(tmp_path, caplog):
    found = load_banks(PROMPTS[:1], 1, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"123")
    assert torch.equal(load_banks(PROMPTS[:1], 1, tmp_path), found)
    assert f"{file} is damaged" in caplog.text
