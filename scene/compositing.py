"""Weights of samples along rays, in torch on any device; the reference for nerfacc's kernel."""

import torch
from torch import Tensor


def composite(density: Tensor, ray: Tensor, step: float, rays: int) -> Tensor:
    """Weights T_i (1 - exp(-sigma_i step)), T_i the transmittance before sample i, on rays padded to the longest.

    Args:
        density: (N,), per unit length, in ray order, from near to far.
        ray: (N,) long, the ray of each sample, ascending.
        step: Length of a sample's interval, world units.
        rays: R, the number of rays; some may have no samples.

    Returns:
        (N,), differentiable in the densities; a ray's weights add up to its opacity.

    Source: Max 1995, as in NeRF.
    """
    if len(ray) == 0:
        return density
    # bincount would wait for the device.
    counts = ray.new_zeros(rays).index_add(0, ray, torch.ones_like(ray))  # (R,)
    position = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts)[ray]  # (N,) on its ray
    longest = int(counts.max())
    flat = ray * longest + position
    padded = density.new_zeros(rays * longest).index_put((flat,), density).view(rays, longest)
    # An interval's length is that between the edges of a lattice, with their rounding, as nerfacc computes it.
    edges = torch.arange(longest, device=ray.device, dtype=density.dtype) * step
    optical_depth = padded * (edges + step - edges)  # (R, longest)
    before = torch.cat([torch.zeros_like(optical_depth[:, :1]), optical_depth[:, :-1]], 1).cumsum(1)
    return (torch.exp(-before) * (1 - torch.exp(-optical_depth))).reshape(-1)[flat]
