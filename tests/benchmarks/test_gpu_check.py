import sys
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check, untrained_sd
from benchmarks.gpu_check import STAGES, Outcome, Part, all_parts, check, main, report
from benchmarks.step_timer import StepTimer
from lightning_modules.cli import run
from vsd.prior import DiffusionPrior

PASSES = "print('noise'); print('figure: 3 steps/s')"
FAILS = "import sys; print('what went wrong'); sys.exit(3)"
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def part(name, program, seconds=60.0, shown=False):
    return Part(name, [sys.executable, "-c", program], seconds, shown)


def test_a_part_that_fails_or_hangs_does_not_end_the_others(tmp_path):
    parts = [part("a", PASSES), part("b", FAILS), part("c", HANGS, 3.0), part("d", PASSES, shown=True)]
    outcomes = check(parts, tmp_path, "2 x Some GPU")
    assert [o.result for o in outcomes] == ["passed", "failed with 3", "stopped after 3 s", "passed"]
    child = int((tmp_path / "c.log").read_text())
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(child), "what it has started ends with it"
    written = (tmp_path / "report.md").read_text()
    assert written == report("2 x Some GPU", outcomes)
    assert "| b | failed with 3 | " in written and "```\nwhat went wrong\n```" in written
    assert written.count("- 3 steps/s") == 2 and written.count("noise") == 1, "the output of d alone is shown"


def test_a_part_that_hangs_ends_where_there_are_no_sessions(tmp_path, monkeypatch):
    monkeypatch.delattr(gpu_check.os, "killpg")  # as on Windows
    assert check([part("a", "import time; time.sleep(600)", 1.0)], tmp_path, "")[0].result == "stopped after 1 s"


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_the_report_is_there_after_every_part(tmp_path):
    read = f"print('figure:', len(open({str(tmp_path / 'report.md')!r}).read().splitlines()))"
    assert check([part("a", PASSES), part("b", read)], tmp_path, "")[1].figures == ["11"]


def test_parts_beyond_the_time_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "MINUTES", 0)
    (outcome,) = check([part("a", PASSES)], tmp_path, "")
    assert outcome.result == "skipped: 0 minutes are over" and not (tmp_path / "a.log").exists()


def test_utilisation_is_shown_where_it_is_known():
    written = report("m", [Outcome("a", "passed", 2.0, 87.4, [], ""), Outcome("b", "passed", 2.0, None, [], "")])
    assert "| a | passed | 2 | 87 % |" in written and "| b | passed | 2 |  |" in written


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "none")])
    assert ended.value.code == 2 and not (tmp_path / "none").exists()
    assert capsys.readouterr().err.splitlines() == [
        "gpu-check: PyTorch finds no CUDA device here; run it on a machine with a GPU"
    ]


@pytest.mark.parametrize("failed", [False, True])
def test_the_exit_code_says_whether_all_passed(monkeypatch, tmp_path, capsys, failed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2**33))
    monkeypatch.setattr(gpu_check, "all_parts", lambda *_: [part("a", FAILS if failed else PASSES)])
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path)])
    assert ended.value.code == failed and "1 x A GPU, 8 GiB" in (tmp_path / "report.md").read_text()


def test_the_time_limits_allow_for_every_part(tmp_path):
    parts = all_parts(tmp_path, 2)
    names = [p.name for p in parts]
    assert len(set(names)) == len(names) and all(any(stage in name for name in names) for stage in STAGES)
    # Limits are generous each: what a part leaves is the next one's.
    assert all(p.seconds <= 300 for p in parts) and names[-1] == "torchrun on 2 GPUs"


@pytest.mark.parametrize(
    "name",
    [
        *(f"toybox {stage}, cuda" for stage in STAGES),
        *(f"Stable Diffusion {stage}, 512 px, bfloat16" for stage in STAGES),
        "Stable Diffusion nerf, 512 px, bfloat16, savings",
    ],
)
def test_the_commands_of_the_stages_are_understood(tmp_path, capsys, name):
    (command,) = [p.command for p in all_parts(tmp_path, 1) if p.name == name]
    assert command[1:3] == ["-m", "lightning_modules.cli"]
    with pytest.raises(SystemExit) as ended:
        run([*command[3:], "--print_config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "benchmarks.step_timer.StepTimer" in printed and "a red mushroom" in printed


@pytest.mark.parametrize(("skip", "mean"), [(2, "3.5"), (0, "2.5")])
def test_a_run_prints_its_rate_and_means(capsys, skip, mean):
    timer, module = StepTimer(skip), SimpleNamespace(device=torch.device("cpu"))
    for step in range(6):
        metrics = {"train/loss": torch.tensor(float(step)), "val/loss": torch.tensor(100.0)}
        timer.on_train_batch_end(SimpleNamespace(callback_metrics=metrics), module)
    timer.on_train_end(None, module)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("figure: ") and line.endswith(f" steps/s, train/loss {mean}")


def test_a_run_of_skipped_steps_alone_prints_nothing(capsys):
    timer, module = StepTimer(2), SimpleNamespace(device=torch.device("cpu"))
    for _ in range(2):
        timer.on_train_batch_end(SimpleNamespace(callback_metrics={}), module)
    timer.on_train_end(None, module)
    assert not capsys.readouterr().out


def test_an_untrained_pipeline_is_written_and_loads(tmp_path):
    untrained_sd.main([str(tmp_path / "sd")])
    prior = DiffusionPrior.load(str(tmp_path / "sd"), dtype=torch.bfloat16)
    assert prior.unet.dtype == torch.bfloat16 and prior.image_size == 128
