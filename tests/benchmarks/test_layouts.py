import pytest
import torch

from benchmarks import layouts


@pytest.mark.parametrize("name", layouts.STEPS)
def test_every_form_of_a_step_is_timed_in_its_layout_and_dtype(monkeypatch, name):
    """What convolutions return tells both."""
    seen, convolve = [], torch.nn.Conv2d.forward

    def noted(self, x):
        out = convolve(self, x)
        last = out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous()
        seen.append((out.dtype, "channels last" if last else "contiguous"))
        return out

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    build, _ = layouts.STEPS[name]
    for dtype in layouts.DTYPES:
        for layout, memory_format in layouts.LAYOUTS.items():
            step = build(dtype, memory_format, 1)
            seen.clear()
            step()
            assert (dtype, layout) == max(set(seen), key=seen.count)


def test_the_table_has_a_ratio_for_every_other_form(monkeypatch):
    monkeypatch.setattr(layouts, "STEPS", {"a step": (lambda *_: lambda: None, 1)})
    head, _, row = layouts.table(2)
    assert head.count("|") == row.count("|") == 6 and row.count("ms") == 4 and row.count("ms, ") == 3
