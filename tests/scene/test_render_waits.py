"""Volume rendering on a device that is not the CPU: the host waits for the numbers of samples alone."""

import pytest
import torch
from stand_in import StandIn

from scene.cameras import pixel_rays
from scene.hashgrid import HashGrid
from scene.radiance_field import Background, DenseGrid, RadianceField
from scene.volume_rendering import VolumeRenderer


@pytest.mark.parametrize("encoding", [HashGrid, DenseGrid])
def test_a_render_waits_for_the_numbers_of_samples_alone(encoding):
    """In the cube, in occupied cells, and on the longest ray; the grid's later updates for that of occupied cells."""
    with StandIn() as device:
        field, background = (module.to("meta") for module in (RadianceField(encoding()), Background()))
        renderer = VolumeRenderer(samples=16).to("meta")
        for step, expected in ((0, []), (1024, ["occupancy.py"])):
            with device.watch() as waits:
                renderer.update(step, field)
            assert [wait.split(": ")[1].split(":")[0] for wait in waits] == expected
        with device.watch() as waits:
            origins, directions = pixel_rays(torch.zeros(1, 4, 4, device="meta"), torch.ones(1, device="meta"), 8)
            jitter = torch.rand(len(origins), device="meta", generator=torch.Generator("meta"))
            out = renderer(field, origins, directions, jitter)
        assert [wait.split(".py:")[0] for wait in waits] == [
            "nonzero: marching",
            "nonzero: marching",
            "value read: compositing",
        ]
        with device.watch() as waits:
            (out.rgb + (1 - out.opacity) * background(directions)).sum().backward()
        assert waits == []
        assert all(p.grad.is_meta for p in field.parameters())
