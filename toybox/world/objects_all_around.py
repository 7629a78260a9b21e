"""The six toybox objects that look much the same from all around (see toybox.world.objects)."""

import math

from toybox.world.builder import BEAK, BISCUIT, CREAM, DARK, GLASS, GREY, LIGHT_GREY, SIGNAL, WOOD, Builder


def mushroom(b: Builder) -> None:
    """A mushroom: a cap with dots all around on a stem."""
    stem, tall = b.vary(0.15, 0.02), b.vary(0.3, 0.03)
    wide, high = b.vary(0.5, 0.04), b.vary(0.3, 0.035)
    base = 0.08
    b.frustum((0, 0, base - tall), 1.25 * stem, tall, CREAM, 0.75, part="stem")
    b.ellipsoid((0, 0, base), (wide, wide, high), b.main)
    b.frustum((0, 0, base - 0.55 * high), 0.62 * wide, 0.5 * high, b.shade(CREAM, 0.85), part="gills")
    spin = b.vary(0, 12)
    for angle, tilt, size in (
        (0 + spin, 45, 0.09),
        (52 + spin, 30, 0.075),
        (100 + spin, 52, 0.085),
        (158 + spin, 38, 0.09),
    ):
        a, e = math.radians(angle), math.radians(tilt)
        where = (wide * math.cos(e) * math.cos(a), wide * math.cos(e) * math.sin(a), base + high * math.sin(e))
        b.ellipsoid(where, (size, size, 0.75 * size), CREAM, pair=True, part="dots")
    b.ellipsoid((0, 0, base + high), (0.1, 0.1, 0.045), CREAM, part="dots")


def snowman(b: Builder) -> None:
    """A snowman: three balls, a face and buttons in front, a hat on top."""
    low, middle, top = b.vary(0.32, 0.025), b.vary(0.235, 0.02), b.vary(0.17, 0.015)
    z0 = -0.36
    z1 = z0 + 0.8 * (low + middle)
    z2 = z1 + 0.82 * (middle + top)
    b.ellipsoid((0, 0, z0), (low, low, 0.95 * low), b.main)
    b.ellipsoid((0, 0, z1), (middle, middle, middle), b.main)
    b.ellipsoid((0, 0, z2), (top, top, top), b.main)
    b.frustum((top + 0.07, 0, z2), 0.045, b.vary(0.1, 0.02), BEAK, 0.1, pitch=90, part="nose")
    b.ellipsoid((0.85 * top, 0.4 * top, z2 + 0.35 * top), (0.03, 0.03, 0.03), DARK, pair=True, part="eyes")
    for z in (z1 + 0.35 * middle, z1 - 0.25 * middle):
        b.ellipsoid((0.95 * middle, 0, z), (0.03, 0.035, 0.035), DARK, part="buttons")
    brim = z2 + 0.75 * top
    b.frustum((0, 0, brim), 1.15 * top, 0.02, DARK, part="hat")
    b.frustum((0, 0, brim + 0.1), 0.72 * top, b.vary(0.1, 0.015), DARK, part="hat")


def tree(b: Builder) -> None:
    """A tree: a crown of three cones on a trunk."""
    wide, high = b.vary(0.44, 0.03), b.vary(0.22, 0.015)
    b.frustum((0, 0, -0.5), b.vary(0.09, 0.015), 0.2, WOOD, part="trunk")
    shrink = b.vary(0.78, 0.03)
    z = -0.2
    for i in range(3):
        b.frustum(
            (0, 0, z), wide * shrink**i, high, b.main if i != 1 else b.shade(b.main, 0.9), 0.25 if i < 2 else 0.02
        )
        z += 1.2 * high


def rocket(b: Builder) -> None:
    """A rocket: a window in front, a nose cone, four fins and an engine."""
    radius, half = b.vary(0.19, 0.015), b.vary(0.32, 0.03)
    b.frustum((0, 0, -0.02), radius, half, b.main, 0.92)
    nose = b.vary(0.15, 0.02)
    b.frustum(
        (0, 0, half - 0.02 + nose),
        0.92 * radius,
        nose,
        LIGHT_GREY if b.main[1] < 0.75 else SIGNAL,
        0.08,
        part="nose cone",
    )
    b.frustum((0, 0, -half - 0.08), 0.8 * radius, 0.07, GREY, 0.7, part="engine")
    b.ellipsoid((0.93 * radius, 0, 0.14), (0.05, 0.08, 0.08), GLASS, part="windows")
    b.frustum((0, 0, -0.12), 1.0 * radius, 0.035, LIGHT_GREY, part="band")
    fin = b.vary(0.15, 0.02)
    for x in (radius + 0.4 * fin, -radius - 0.4 * fin):
        b.block((x, 0, -half + 0.02), (fin, 0.03, 0.2), b.second, (0.45, 1.0), part="fins")
    b.block((0, radius + 0.4 * fin, -half + 0.02), (0.03, fin, 0.2), b.second, (1.0, 0.45), pair=True, part="fins")


def table(b: Builder) -> None:
    """A table: a top on four legs, with a frame between them."""
    long, wide = b.vary(0.42, 0.03), b.vary(0.55, 0.03)
    top, leg = b.vary(0.2, 0.04), b.vary(0.045, 0.01)
    half = (top + 0.42) / 2
    b.block((0, 0, top), (long, wide, 0.045), b.main, part="top")
    for x in (long - 0.06, 0.06 - long):
        b.block((x, wide - 0.06, top - half), (leg, leg, half), b.second, pair=True, part="legs")
    b.block((0, 0, top - 0.08), (0.86 * long, 0.88 * wide, 0.04), b.second, part="frame")


def ice_cream(b: Builder) -> None:
    """An ice cream: two scoops in a cone, a cherry on top."""
    radius, tall = b.vary(0.3, 0.02), b.vary(0.34, 0.03)
    b.frustum((0, 0, -0.25), 0.93 * radius, tall, BISCUIT, 0.06, pitch=180, part="cone")
    b.frustum((0, 0, -0.25 + tall), 0.98 * radius, 0.035, b.shade(BISCUIT, 0.85), part="rim")
    z = tall - 0.25 + 0.1
    b.ellipsoid((0, 0, z), (radius, radius, 0.93 * radius), b.main)
    second = b.vary(0.22, 0.02)
    b.ellipsoid((0, 0, z + 0.24), (second, second, second), b.second)
    b.ellipsoid((0, 0, z + 0.24 + second), (0.07, 0.07, 0.07), SIGNAL, part="cherry")
