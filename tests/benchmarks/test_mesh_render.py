import pytest
import torch

from benchmarks import mesh_render as benchmark


@pytest.fixture(autouse=True)
def threads():
    """The benchmark sets the number of threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_part_of_a_render_is_timed(capsys):
    benchmark.main(["--sizes", "8", "--grids", "6", "--steps", "6", "--repeats", "2", "--threads", "1"])
    printed = capsys.readouterr().out
    assert "8 x 8 pixels, warp" in printed and printed.count("geometry step, grid 6") == 2
    for part in ("hierarchy", "visibility", "shading", "outlines", "backward", "brute force over hierarchy and query"):
        assert f"  {part} " in printed


def test_a_geometry_step_changes_the_surface():
    surface = benchmark.ball(6, "cpu")
    before = surface.sdf.detach().clone()
    benchmark.geometry_step(surface, 2, 12)()
    assert 20 < (surface.sdf != before).sum() < len(before) / 2
