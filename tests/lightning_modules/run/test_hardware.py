"""Kinds of devices on which nothing has been run: a line that says so, and what they cannot do is refused."""

import pytest
import torch

from common.errors import InputError
from lightning_modules.run.hardware import require_kernels, untested

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def test_what_has_not_been_run_is_said_by_name(monkeypatch):
    assert untested(CPU) == untested(CUDA) == ""
    assert untested(MPS).startswith("warning: trainer.accelerator: on mps (Apple) nothing has been run yet")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "on ROCm (AMD) nothing" in untested(CUDA) and untested(CPU) == ""


def test_meshes_and_hash_grids_are_refused_where_they_cannot_be(monkeypatch):
    for device in (CPU, CUDA):
        require_kernels(device, meshes=True, hashed=True)
    require_kernels(MPS, meshes=False, hashed=False)
    with pytest.raises(InputError, match=r"accelerator: .* not mps \(Apple\); run .* --trainer.accelerator cpu"):
        require_kernels(MPS, meshes=True, hashed=False)
    with pytest.raises(InputError, match="model.field.encoding: .* mps lacks; use dense"):
        require_kernels(MPS, meshes=False, hashed=True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    require_kernels(CUDA, meshes=False, hashed=True)
    with pytest.raises(InputError, match=r"not ROCm \(AMD\)"):
        require_kernels(CUDA, meshes=True, hashed=True)
