"""What the GPU's stand-in refuses and what it notes, one by one."""

import pytest
import torch
from stand_in import StandIn
from torch import nn


def on(*shape, dtype=torch.float32):
    return torch.zeros(*shape, device="meta", dtype=dtype)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: on(2) + torch.zeros(2),
        lambda: torch.where(on(2) > 0, torch.zeros(2), on(2)),
        lambda: nn.Linear(2, 2)(on(1, 2)),
        lambda: nn.Conv2d(1, 1, 1).to("meta")(torch.zeros(1, 1, 2, 2)),
        lambda: torch.cat([on(2), torch.zeros(2)]),
        lambda: torch.randn(2, device="meta", generator=torch.Generator()),
        lambda: torch.randint(5, (2,), generator=torch.Generator("meta")),
    ],
)
def test_devices_do_not_mix(mixed):
    with StandIn(), pytest.raises(AssertionError, match="on cpu and meta|a generator of|on meta and cpu"):
        mixed()


@pytest.mark.parametrize(
    ("wait", "named"),
    [
        (lambda: on(2).sum().item(), "value read"),
        (lambda: bool(on(2).sum() > 0), "value read"),
        (lambda: int(on(1).max()), "value read"),
        (lambda: on(2).cpu(), "copy from meta to cpu"),
        (lambda: on(2).to("cpu", non_blocking=True), "copy from meta to cpu"),
        (lambda: torch.zeros(2).to("meta"), "copy from cpu to meta"),
        (lambda: on(2).copy_(torch.zeros(2)), "copy from cpu to meta"),
        (lambda: torch.tensor([1.0], device="meta"), "values from the CPU"),
        (lambda: torch.as_tensor([1.0], device="meta"), "values from the CPU"),
        (lambda: on(2).new_tensor(1.0), "values from the CPU"),
        (lambda: on(2).nonzero(), "nonzero"),
        (lambda: torch.unique(on(3)), "_unique2"),
        (lambda: torch.unique_consecutive(on(3), return_inverse=True), "unique_consecutive"),
        (lambda: on(3).repeat_interleave(on(3, dtype=torch.long)), "repeat_interleave"),
        (lambda: torch.bincount(on(3, dtype=torch.long), minlength=2), "bincount"),
        (lambda: on(2)[on(2) > 0], "mask"),
        (lambda: on(2)[torch.tensor([1])], "index on the CPU"),
        (lambda: on(2, 2)[:, [1, 0]], "index on the CPU"),
        (lambda: on(2).__setitem__([1], 0.0), "index on the CPU"),
    ],
)
def test_a_wait_is_noted_with_its_line(wait, named):
    with StandIn() as device:
        wait()
    assert len(device.waits) == 1 and device.waits[0].startswith(f"{named}: test_stand_in.py:")
    assert "lambda" in device.waits[0]


def test_what_needs_no_wait_is_not_noted():
    with StandIn() as device:
        x = torch.randn(2, 3, device="meta", generator=torch.Generator("meta"), requires_grad=True)
        moved = torch.zeros(2, dtype=torch.long).to("meta", non_blocking=True)
        loss = (x[moved] * 2.0 + torch.tensor(3.0)).where(x > 0, 0.0).square().mean()
        loss.backward()
        torch.optim.AdamW([x], fused=True).step()
        with device.watch() as found:
            x.sum().item()
    assert x.grad.is_meta and len(device.waits) == len(found) == 1
