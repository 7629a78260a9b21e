"""Ray casting of coloured primitives: ellipsoids, circular frusta and tapered blocks under affine maps.

A solid is a list of P primitives. Each is one of three unit shapes, moved by an affine map:
  ellipsoid  x^2 + y^2 + z^2 <= 1
  frustum    |z| <= 1, x^2 + y^2 <= r(z)^2, with r going linearly from 1 at z = -1 to taper[0] at z = +1
  block      |z| <= 1, |x| <= u(z), |y| <= v(z), with u, v going linearly from 1 at z = -1 to taper at z = +1
Shapes: B images, P primitives, R rays. A ray starts outside every primitive.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ELLIPSOID, FRUSTUM, BLOCK = 0, 1, 2
MISS = float("inf")


@dataclass
class Solids:
    """B solids of the same primitives.

    Args:
        kinds: P shapes: ELLIPSOID, FRUSTUM or BLOCK.
        to_local: (B, P, 3, 4), maps world points to each primitive's unit shape.
        taper: (B, P, 2) in [0, 1].
        colours: (B, P, 3), RGB in [0, 1].
        parts: P part indices, see `toybox.world.builder.PARTS`.
    """

    kinds: tuple[int, ...]
    to_local: Tensor
    taper: Tensor
    colours: Tensor
    parts: tuple[int, ...]

    def __len__(self) -> int:
        """B, the number of solids."""
        return self.to_local.shape[0]


def intersect(solids: Solids, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Finds where rays first meet the solids.

    Args:
        solids: B solids.
        origins: (B, 3), outside of every primitive.
        directions: (B, R, 3).

    Returns:
        The ray parameter (B, R), inf where nothing is hit, and the index (B, R) of the primitive that is hit.
    """
    nearest = torch.full(directions.shape[:2], MISS)
    index = torch.zeros(directions.shape[:2], dtype=torch.long)
    for p, kind in enumerate(solids.kinds):
        linear = solids.to_local[:, p, :, :3]
        o = torch.einsum("bij,bj->bi", linear, origins) + solids.to_local[:, p, :, 3]
        d = torch.bmm(linear, directions.transpose(1, 2))  # (B, 3, R)
        o = o[:, :, None]
        if kind == ELLIPSOID:
            t = _enter_ellipsoid(o, d)
        elif kind == FRUSTUM:
            t = _enter_frustum(o, d, solids.taper[:, p, :1])
        else:
            t = _enter_block(o, d, solids.taper[:, p])
        closer = t < nearest
        nearest = torch.where(closer, t, nearest)
        index.masked_fill_(closer, p)
    return nearest, index


def _enter_ellipsoid(o: Tensor, d: Tensor) -> Tensor:
    a = (d * d).sum(1)
    b = (o * d).sum(1)
    c = (o * o).sum(1) - 1
    discriminant = b * b - a * c
    return torch.where(discriminant > 0, (-b - discriminant.clamp(min=0).sqrt()) / a, MISS)


def _enter_slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    one = (-1 - o) / d
    two = (1 - o) / d
    return torch.minimum(one, two), torch.maximum(one, two)


def _enter_frustum(o: Tensor, d: Tensor, taper: Tensor) -> Tensor:
    slope = (taper - 1) / 2
    radius = (taper + 1) / 2 + slope * o[:, 2]  # of the cone at the ray's origin
    a = d[:, 0] ** 2 + d[:, 1] ** 2 - (slope * d[:, 2]) ** 2
    b = o[:, 0] * d[:, 0] + o[:, 1] * d[:, 1] - slope * radius * d[:, 2]
    c = o[:, 0] ** 2 + o[:, 1] ** 2 - radius**2
    enter, leave = _enter_slab(o[:, 2], d[:, 2])
    through_cap = (a * enter + 2 * b) * enter + c <= 0
    discriminant = b * b - a * c
    # Where a < 0 the same root is the one at which the ray comes back into the cone.
    side = (-b - discriminant.clamp(min=0).sqrt()) / a
    hits_side = (discriminant > 0) & (side > enter) & (side < leave)
    return torch.where(through_cap, enter, torch.where(hits_side, side, MISS))


def _enter_block(o: Tensor, d: Tensor, taper: Tensor) -> Tensor:
    enter, leave = _enter_slab(o[:, 2], d[:, 2])
    for axis in (0, 1):
        slope = (taper[:, axis, None] - 1) / 2
        reach = slope + 1 + slope * o[:, 2]
        for sign in (1, -1):
            gap = sign * o[:, axis] - reach  # > 0: outside this face at the ray's origin
            speed = sign * d[:, axis] - slope * d[:, 2]
            t = -gap / speed
            inwards = speed < 0
            enter = torch.where(inwards, torch.maximum(enter, t), enter)
            leave = torch.where(inwards, leave, torch.minimum(leave, t))
    return torch.where(enter < leave, enter, MISS)


def normals(solids: Solids, points: Tensor, index: Tensor) -> Tensor:
    """Outward unit normals of surfaces. On an edge the face whose constraint is the tightest counts.

    Args:
        solids: B solids.
        points: (B, R, 3) on the surface.
        index: (B, R), the primitives that the points belong to.

    Returns:
        (B, R, 3).
    """
    batch = torch.arange(len(solids))[:, None]
    matrix = solids.to_local[batch, index]  # (B, R, 3, 4)
    taper = solids.taper[batch, index]
    kind = torch.tensor(solids.kinds)[index]
    p = (matrix[..., :3] @ points[..., None])[..., 0] + matrix[..., 3]
    x, y, z = p.unbind(-1)
    zero = torch.zeros_like(x)

    slope = (taper - 1) / 2
    reach = slope + 1 + slope * z[..., None]
    round_side = (x**2 + y**2).sqrt() - reach[..., 0]
    cap = z.abs() - 1
    flat = torch.stack([zero, zero, z.sign()], -1)
    frustum = torch.where((cap > round_side)[..., None], flat, torch.stack([x, y, -slope[..., 0] * reach[..., 0]], -1))

    faces = torch.stack([x.abs() - reach[..., 0], y.abs() - reach[..., 1], cap], -1).argmax(-1)
    x_face = torch.stack([x.sign(), zero, -slope[..., 0]], -1)
    y_face = torch.stack([zero, y.sign(), -slope[..., 1]], -1)
    block = torch.where((faces == 0)[..., None], x_face, torch.where((faces == 1)[..., None], y_face, flat))

    local = torch.where((kind == ELLIPSOID)[..., None], p, torch.where((kind == FRUSTUM)[..., None], frustum, block))
    world = (local[..., None, :] @ matrix[..., :3])[..., 0, :]
    return torch.nn.functional.normalize(world, dim=-1)
