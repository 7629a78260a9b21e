"""Solid bodies on the tetrahedral grid: a naive flood fill as the reference, and what becomes of surfaces."""

import pytest
import torch

from scene.solids import grid_edges, solid, solidify
from scene.tetrahedra import DMTet, TetrahedralGrid


def ball(centre, radius):
    return lambda points: radius - (points - torch.tensor(centre)).norm(dim=-1)


def surface(field, resolution=20):
    dmtet = DMTet(resolution)
    dmtet.initialise(field)
    return dmtet


def test_the_edges_are_those_of_the_tetrahedra():
    grid = TetrahedralGrid(4)
    tetrahedra = grid.tetrahedra()
    pairs = [tetrahedra[:, [i, j]] for i in range(4) for j in range(i)]
    theirs = {tuple(sorted(pair)) for pair in torch.cat(pairs).tolist()}
    ours = {tuple(sorted(pair)) for pair in zip(*(e.tolist() for e in grid_edges(4)), strict=True)}
    assert theirs <= ours
    on_border = grid.border()
    assert all(on_border[a] and on_border[b] for a, b in ours - theirs), "beyond them only edges on the hull"


def flood(grid, bits, start):
    """The vertices of `start`'s bit that are joined to it, one after the other."""
    neighbours = {}
    for a, b in zip(*(e.tolist() for e in grid_edges(grid.resolution)), strict=True):
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    seen, queue = {start}, [start]
    while queue:
        for other in neighbours[queue.pop()]:
            if other not in seen and bits[other] == bits[start]:
                seen.add(other)
                queue.append(other)
    return seen


def test_a_random_cloud_equals_the_flood_fill():
    grid = TetrahedralGrid(6)
    bits = (torch.rand(len(grid)) < 0.35) & ~grid.border()
    pieces, left = [], set(bits.nonzero()[:, 0].tolist())
    while left:
        pieces.append(flood(grid, bits.tolist(), min(left)))
        left -= pieces[-1]
    assert len(pieces) > 3, "the case must have floaters"
    largest = max(len(piece) for piece in pieces)
    kept = torch.zeros_like(bits)
    for piece in pieces:
        if len(piece) >= 0.3 * largest:
            kept[list(piece)] = True
    air = flood(grid, kept.tolist(), 0)
    wanted = torch.tensor([i not in air for i in range(len(grid))])
    assert torch.equal(solid(grid, bits, 0.3), wanted)


def test_cavities_and_floaters_go_and_two_large_bodies_stay():
    shell = lambda p: torch.minimum(ball((-0.4, 0.0, 0.0), 0.4)(p), -ball((-0.4, 0.0, 0.0), 0.2)(p))  # noqa: E731
    others = (ball((0.5, 0.0, 0.0), 0.3), ball((0.0, 0.7, 0.7), 0.12), ball((-0.4, 0.0, 0.0), 0.09))
    dmtet = surface(lambda p: torch.stack([shell(p), *(o(p) for o in others)]).amax(0))
    before = dmtet.extract()
    assert before.components()[0] == 5
    outside = before.volume().item()
    solidify(dmtet)
    after = dmtet.extract()
    assert after.components()[0] == 2 and after.is_watertight
    full = surface(lambda p: torch.maximum(ball((-0.4, 0.0, 0.0), 0.4)(p), others[0](p))).extract()
    assert after.volume().item() == pytest.approx(full.volume().item(), rel=0.02) and after.volume() > outside


def test_nothing_stays_nothing_and_a_solid_body_stays_as_it_is():
    grid = TetrahedralGrid(5)
    assert not solid(grid, torch.zeros(len(grid), dtype=torch.bool)).any()
    dmtet = surface(ball((0.0, 0.0, 0.0), 0.5))
    values = dmtet.sdf.detach().clone()
    solidify(dmtet)
    assert torch.equal(dmtet.sdf, values)
