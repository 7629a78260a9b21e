"""A part of the prior trained by two processes, as `make prior` does it on a CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import torch
from small_fits import arguments, checkpoint, same, weights

SECONDS = 120


@contextmanager
def two_processes(folder, *more, steps):
    """Trains the image tower by two processes, in a process group of its own, of which nothing is left afterwards."""
    words = arguments("image_tower", folder, "--trainer.devices=2", "--trainer.strategy=ddp", *more, steps=steps)
    first = subprocess.Popen(
        [sys.executable, "-m", "lightning_modules.cli", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with first:
        try:
            yield first
        finally:
            with suppress(ProcessLookupError):
                os.killpg(first.pid, signal.SIGKILL)


def test_sigterm_ends_both_processes_at_once_and_their_training_is_resumed(untrained_prior, cache, tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    kept = checkpoint("image_tower", folder)
    with two_processes(folder, "--trainer.callbacks.every=2", steps=100_000) as begun:
        end = time.monotonic() + SECONDS
        while not kept.exists() and begun.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert kept.exists(), begun.communicate()[1] if begun.poll() is not None else "no checkpoint"
        os.killpg(begun.pid, signal.SIGTERM)
        begun.communicate(timeout=30)  # both hold the pipe of errors
        assert begun.returncode == -signal.SIGTERM

    step = torch.load(kept, weights_only=True)["global_step"]
    with two_processes(folder, f"--ckpt_path={kept}", steps=step + 1) as resumed:
        errors = resumed.communicate(timeout=SECONDS)[1]
        assert resumed.returncode == 0, errors
    assert not same(weights(folder, "image_encoder"), weights(untrained_prior, "image_encoder"))
