"""A part of the prior trained by two processes, as `make prior` does it on a CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time

import torch
from small_fits import arguments, checkpoint, same, weights

SECONDS = 120


def two_processes(folder, *more, steps):
    """Starts the training of the image tower by two processes, in a process group of its own."""
    words = arguments("image_tower", folder, "--trainer.devices=2", "--trainer.strategy=ddp", *more, steps=steps)
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_modules.cli", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_sigterm_ends_both_processes_at_once_and_their_training_is_resumed(untrained_prior, cache, tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(untrained_prior, folder)
    kept = checkpoint("image_tower", folder)
    begun = two_processes(folder, "--trainer.callbacks.every=2", steps=100_000)
    try:
        end = time.monotonic() + SECONDS
        while not kept.exists() and begun.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert kept.exists(), begun.communicate()[1] if begun.poll() is not None else "no checkpoint"
        os.killpg(begun.pid, signal.SIGTERM)
        begun.communicate(timeout=30)  # both hold the pipe of errors
        assert begun.returncode == -signal.SIGTERM
    finally:
        if begun.poll() is None:
            os.killpg(begun.pid, signal.SIGKILL)

    step = torch.load(kept, weights_only=True)["global_step"]
    resumed = two_processes(folder, f"--ckpt_path={kept}", steps=step + 1)
    errors = resumed.communicate(timeout=SECONDS)[1]
    assert resumed.returncode == 0, errors
    assert not same(weights(folder, "image_encoder"), weights(untrained_prior, "image_encoder"))
