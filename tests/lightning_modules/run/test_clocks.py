"""Clocks that are set back while a run goes on."""

import ast
import os
from pathlib import Path

import torch
from small_runs import ROOT

from lightning_modules.run.checkpoints import newest_first


def test_the_newest_checkpoint_is_that_of_the_most_steps_whatever_the_clock_said(tmp_path):
    paths = {}
    for hours, (name, step) in enumerate({"last": 30, "hpc_ckpt_1": 20, "previous": 10}.items()):
        paths[step] = tmp_path / f"{name}.ckpt"
        torch.save({"global_step": step}, paths[step])
        os.utime(paths[step], (1e9 + 3600 * hours,) * 2)  # the oldest file has the latest time
    assert newest_first([paths[10], paths[30], paths[20]]) == [paths[30], paths[20], paths[10]]
    paths[30].write_bytes(b"damaged")
    assert newest_first(list(paths.values()))[0] == paths[30], "it is tried first, and named"


def test_durations_of_a_run_are_taken_from_the_clock_that_nobody_sets():
    """Time left, heartbeats and waits follow time.monotonic; only the names of folders tell the time of day."""
    found = [
        (file.name, node.lineno)
        for file in Path(ROOT / "lightning_modules").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.time", "time", "os.path.getmtime")
    ]
    assert not found
