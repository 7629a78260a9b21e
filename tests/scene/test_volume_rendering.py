"""Renders of fields against closed forms, the occupancy grid in use, and a world without nerfacc."""

import subprocess
import sys

import pytest
import torch

from scene.cameras import pixel_rays, turntable
from scene.hashgrid import HashGrid
from scene.marching import enter_cube
from scene.radiance_field import DenseGrid, RadianceField
from scene.volume_rendering import VolumeRenderer


class Uniform(torch.nn.Module):
    """A field of one density and albedo everywhere."""

    def __init__(self, sigma, albedo=(0.2, 0.5, 0.9)):
        super().__init__()
        self.sigma, self.albedo = sigma, torch.tensor(albedo)

    def density(self, points):
        return torch.full((len(points),), float(self.sigma))

    def forward(self, points):
        return self.density(points), self.albedo.expand(len(points), 3)


def camera_rays(size=16):
    camera = turntable(1, elevation=20, distance=2.5)
    return pixel_rays(camera.camera_to_world(), camera.fovy, size)


def test_fog_of_one_density_attenuates_as_beer_and_lambert_say():
    """Closed form: opacity 1 - exp(-sigma L) over the length L inside the cube, colour opacity times albedo."""
    origins, directions = camera_rays()
    enter, leave = enter_cube(origins, directions, 0.5)
    length = (leave - enter).clamp(min=0)
    out = VolumeRenderer(bound=0.5, samples=512)(Uniform(1.3), origins, directions)
    expected = 1 - torch.exp(-1.3 * length)
    torch.testing.assert_close(out.opacity[:, 0], expected, atol=4e-3, rtol=0)
    torch.testing.assert_close(out.rgb, out.opacity * torch.tensor([0.2, 0.5, 0.9]))
    assert (length == 0).any() and (out.opacity[length == 0] == 0).all()


def test_a_wall_of_high_density_is_seen_at_its_distance():
    origins, directions = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]])
    out = VolumeRenderer(bound=0.5, samples=1024)(Uniform(1e4), origins, directions)
    assert out.opacity.item() == pytest.approx(1, abs=1e-5) and out.depth.item() == pytest.approx(1.5, abs=2e-3)


def chunked(encoding, chunk):
    """A render with jitter and noise, the gradients of a loss of all that it gives, elements kept, and draws."""
    torch.manual_seed(0)
    field = RadianceField(encoding()).double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    renderer = VolumeRenderer(resolution=8, samples=48, chunk=chunk).double()
    renderer.update(0, field)
    origins, directions = (rays.double() for rays in camera_rays(12))
    draws, kept, generator = [], [], torch.Generator().manual_seed(1)

    def noise(count):
        draws.append(count)
        return torch.randn(count, generator=generator, dtype=torch.double)

    jitter = torch.rand(len(origins), generator=generator, dtype=torch.double)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        out = renderer(field, origins, directions, jitter, noise=noise)
    weights = torch.linspace(0, 1, len(out.weights), dtype=torch.double)
    loss = out.rgb.square().sum() + (out.opacity * out.depth).sum() + (out.weights * weights * out.distance).sum()
    loss.backward()
    return out, [p.grad for p in field.parameters()], sum(kept), draws


@pytest.mark.parametrize("encoding", [HashGrid, lambda: DenseGrid((4, 8))])
def test_chunks_give_the_render_and_the_gradients_of_all_rays_at_once(encoding):
    """Of 144 rays, the last chunk being smaller; noise is drawn once, though the field is computed twice."""
    plain, expected, everything, _ = chunked(encoding, None)
    out, found, kept, draws = chunked(encoding, 25)
    assert draws == [len(plain.weights)] and len(plain.weights) > 500
    assert torch.equal(out.ray, plain.ray) and torch.equal(out.distance, plain.distance)
    for name in ("rgb", "opacity", "depth", "weights"):
        torch.testing.assert_close(getattr(out, name), getattr(plain, name), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert kept < 0.1 * everything


def test_fog_makes_the_lattice_coarser_and_never_larger():
    origins, directions = camera_rays(32)
    full = VolumeRenderer(samples=128)
    bounded = VolumeRenderer(samples=128, max_samples=5000)
    assert len(full.march(origins, directions)[0]) > 10_000
    ray, _, step = bounded.march(origins, directions)
    assert len(ray) <= 5000 and step > bounded.step
    bounded.chunk = 100
    again = bounded.march(origins, directions)
    assert torch.equal(again[0], ray) and again[2] == step
    thin = bounded(Uniform(0.05), origins, directions).opacity
    torch.testing.assert_close(thin, full(Uniform(0.05), origins, directions).opacity, atol=0.03, rtol=0)


def test_the_occupancy_grid_learns_where_the_field_is_empty():
    torch.manual_seed(0)
    field = RadianceField(DenseGrid((8, 16)), initialisation="object")
    renderer = VolumeRenderer(resolution=16, threshold=1e-3)
    origins, directions = camera_rays()
    before = renderer(field, origins, directions)
    for step in range(0, 64):
        renderer.update(step, field)
    after = renderer(field, origins, directions)
    assert len(after.ray) < 0.6 * len(before.ray), "the corners of the cube are empty"
    torch.testing.assert_close(after.opacity, before.opacity, atol=0.02, rtol=0)
    state = {k: v.clone() for k, v in renderer.state_dict().items()}
    other = VolumeRenderer(resolution=16)
    other.load_state_dict(state)
    assert torch.equal(other.march(origins, directions)[0], renderer.march(origins, directions)[0])


def test_an_empty_field_renders_nothing_and_keeps_its_gradient_path():
    renderer = VolumeRenderer()
    renderer.occupancy.binaries.fill_(False)
    field = RadianceField(DenseGrid((8,)))
    out = renderer(field, *camera_rays(), normals=True)
    assert out.opacity.abs().max() == 0 and out.normal.shape == (256, 3)
    (out.rgb.sum() + out.depth.sum()).backward()


def test_everything_works_without_nerfacc():
    """In a process that cannot import it: update, march, render, and the backend's name on CUDA."""
    code = """
import sys
class Absent:
    def find_spec(name, *_):
        if name.partition(".")[0] == "nerfacc":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent)
import torch
from scene import volume_rendering
from scene.radiance_field import DenseGrid, RadianceField
field, renderer = RadianceField(DenseGrid((8,))), volume_rendering.VolumeRenderer(resolution=8)
renderer.update(0, field)
origins = torch.tensor([[2.0, 0, 0]]).expand(5, 3)
out = renderer(field, origins, torch.tensor([[-1.0, 0, 0]]).expand(5, 3), torch.rand(5), normals=True)
out.rgb.sum().backward()
assert out.opacity.min() > 0.5 and all(p.grad is not None for p in field.parameters())
print(volume_rendering.backend(torch.device("cuda")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "torch lattice (nerfacc is not installed)\n"), done.stderr
