"""The line that says what a stage of 3D particles runs on."""

import functools
from types import SimpleNamespace

import pytest
import torch
from small_runs import UNSEEN, fit

from lightning_modules.nerf import FieldSettings, NerfStage
from scene import hashgrid, volume_rendering


class Strategy:
    def __init__(self, device):
        self.root_device = torch.device(device)

    def barrier(self):
        self.waited = True


@pytest.fixture
def begin():
    """Lets a stage on a device speak, as a rank, and tells whether the rank waited for the others."""

    def on(device, encoding, rank=0, meshes=False):
        stage, strategy = NerfStage(field=FieldSettings(encoding=encoding)), Strategy(device)
        stage._trainer = SimpleNamespace(is_global_zero=rank == 0, strategy=strategy)
        stage.print_backends(encoding, meshes)
        return strategy.waited

    return on


def test_a_run_prints_its_backends_once(elsewhere, capsys):
    fit(UNSEEN, steps=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("backends: dense grid torch, marching torch lattice") == 1
    assert sum("backends" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("device", "encoding", "missing", "line"),
    [
        ("cpu", "hash", True, "hash grid torch, marching torch lattice"),
        ("cuda", "hash", True, "hash grid torch (OSError: old GPU), marching torch lattice (nerfacc finds no nvcc)"),
        ("cuda", "dense", True, "dense grid torch, marching torch lattice (nerfacc finds no nvcc)"),
        ("cuda", "hash", False, "hash grid tinycudann, marching nerfacc"),
        ("cuda", "dense", False, "dense grid torch, marching nerfacc"),
    ],
)
def test_the_line_says_what_runs_and_why(begin, monkeypatch, capsys, device, encoding, missing, line):
    monkeypatch.setattr(hashgrid, "bindings", lambda: (None, "OSError: old GPU") if missing else (torch, ""))
    monkeypatch.setattr(volume_rendering, "missing_kernels", lambda: "nerfacc finds no nvcc" if missing else "")
    assert begin(device, encoding)
    assert capsys.readouterr().out == f"backends: {line}\n"


def test_stages_of_meshes_name_their_rasteriser_too(begin, capsys):
    begin("cpu", "dense", meshes=True)
    assert capsys.readouterr().out == "backends: dense grid torch, marching torch lattice, rasteriser warp\n"


def test_the_other_ranks_wait_in_silence_for_what_rank_zero_compiles(begin, monkeypatch, capsys):
    monkeypatch.setattr(volume_rendering, "missing_kernels", functools.partial(pytest.fail, "not before the barrier"))
    assert begin("cuda", "hash", rank=1)
    assert capsys.readouterr().out == ""
