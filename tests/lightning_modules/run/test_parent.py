import os
import subprocess
import sys
import time

import pytest
from small_runs import PATHS

CHILD = "import time; print(__import__('os').getpid(), flush=True); time.sleep(100)"
PARENT = f"""
import os, subprocess, sys
from functools import partial
from lightning_modules.run.parent import die_with_parent
subprocess.Popen([sys.executable, "-c", {CHILD!r}], preexec_fn=partial(die_with_parent, os.getpid())).wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_child_is_killed_with_its_parent():
    environment = os.environ | PATHS
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    end = time.monotonic() + 20
    while time.monotonic() < end and is_running(child):
        time.sleep(0.05)
    assert not is_running(child)


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
