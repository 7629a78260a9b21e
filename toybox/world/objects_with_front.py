"""The six toybox objects whose front, sides and back are told apart (see toybox.world.objects)."""

import math

from toybox.world.builder import BEAK, CREAM, DARK, GLASS, GREY, LAMP, LIGHT_GREY, SIGNAL, WOOD, Builder


def car(b: Builder) -> None:
    """A car: a body on wheels, a cabin, lamps in front, tail lights and a number plate at the back."""
    length, width, wheel = b.vary(0.62, 0.05), b.vary(0.29, 0.025), b.vary(0.15, 0.015)
    floor = -0.12
    body = b.vary(0.13, 0.015)
    top = floor + 2 * body
    b.block((0, 0, floor + body), (length, width, body), b.main, (0.96, 0.94))
    cabin = b.vary(0.33, 0.03)
    back = b.vary(-0.14, 0.03)
    height = b.vary(0.12, 0.012)
    b.block((back, 0, top + height), (cabin, 0.9 * width, height), GLASS, (0.72, 0.85), part="cabin")
    b.block((back, 0, top + 2 * height), (0.74 * cabin, 0.78 * width, 0.025), b.main, part="roof")
    for x in (0.6 * length, -0.6 * length):
        b.frustum((x, width, floor), wheel, 0.055, DARK, roll=90, pair=True, part="wheels")
        b.frustum((x, width + 0.045, floor), 0.5 * wheel, 0.02, LIGHT_GREY, roll=90, pair=True, part="hubs")
    b.ellipsoid((length - 0.01, 0.66 * width, floor + body), (0.04, 0.07, 0.06), LAMP, pair=True, part="lamps")
    b.block((length, 0, floor + 0.7 * body), (0.02, 0.3 * width, 0.4 * body), DARK, part="grille")
    b.block((-length, 0.7 * width, floor + 1.1 * body), (0.02, 0.06, 0.05), SIGNAL, pair=True, part="tail lights")
    b.block((-length, 0, floor + 0.8 * body), (0.015, 0.12, 0.045), CREAM, part="plate")


def duck(b: Builder) -> None:
    """A duck: body, neck and head of one colour, with a beak, eyes, wings and a tail."""
    length, girth = b.vary(0.46, 0.03), b.vary(0.31, 0.025)
    head = b.vary(0.21, 0.02)
    reach, lift = b.vary(0.27, 0.03), b.vary(0.3, 0.03)
    b.ellipsoid((-0.06, 0, -0.18), (length, girth, 0.27), b.main)
    b.ellipsoid((reach - 0.04, 0, 0.05), (0.17, 0.16, 0.22), b.main)
    b.ellipsoid((reach, 0, lift), (head, head, head), b.main)
    bill = b.vary(0.12, 0.02)
    b.ellipsoid((reach + head + 0.5 * bill, 0, lift - 0.05), (bill, 0.11, 0.04), BEAK, part="beak")
    b.ellipsoid(
        (reach + 0.78 * head, 0.5 * head, lift + 0.35 * head), (0.045, 0.045, 0.05), DARK, pair=True, part="eyes"
    )
    b.ellipsoid(
        (-0.1, girth - 0.03, -0.13), (b.vary(0.24, 0.02), 0.07, 0.14), b.second, pitch=-12, pair=True, part="wings"
    )
    b.frustum((-0.06 - length, 0, 0.0), 0.15, 0.15, b.main, 0.1, pitch=b.vary(-50, 6), part="tail")


def chair(b: Builder) -> None:
    """A chair: a seat on four legs, a backrest, and a cushion on either."""
    side, seat = b.vary(0.33, 0.025), b.vary(-0.08, 0.03)
    leg = b.vary(0.045, 0.008)
    depth = (seat + 0.65) / 2
    for x in (side - leg, leg - side):
        b.block((x, side - leg, seat - depth), (leg, leg, depth), b.second, pair=True, part="legs")
    b.block((0, 0, seat), (side, side, 0.05), b.main, part="seat")
    b.block((0.02, 0, seat + 0.07), (0.85 * side, 0.85 * side, 0.03), CREAM, (0.93, 0.93), part="cushion")
    height = b.vary(0.34, 0.035)
    lean = b.vary(-6, 3)
    b.block((-side + 0.02, 0, seat + height), (0.04, side, height), b.main, pitch=lean, part="backrest")
    b.block(
        (-side + 0.065, 0, seat + 1.1 * height), (0.02, 0.72 * side, 0.55 * height), CREAM, pitch=lean, part="back pad"
    )


def mug(b: Builder) -> None:
    """A mug: its handle at the back, a badge in front, a drink on top."""
    radius, half = b.vary(0.36, 0.025), b.vary(0.4, 0.03)
    taper = b.vary(1.06, 0.05)
    b.frustum((0.06, 0, 0), radius, half, b.main, min(taper, 1.0))
    wide = radius * min(taper, 1.0)
    b.frustum((0.06, 0, half), 0.86 * wide, 0.012, WOOD, part="drink")
    bow, out, bar = b.vary(0.22, 0.02), b.vary(0.24, 0.02), b.vary(0.055, 0.006)
    back = 0.06 - radius
    for z in (bow, -bow):
        b.frustum((back - 0.5 * out + 0.04, 0, z), bar, 0.5 * out + 0.04, b.main, pitch=90, part="handle")
        b.ellipsoid((back - out, 0, z), (bar, bar, bar), b.main, part="handle")
    b.frustum((back - out, 0, 0), bar, bow, b.main, part="handle")
    badge = b.vary(0.17, 0.02)
    b.ellipsoid(
        (0.06 + radius - 0.045, 0, -0.02), (0.065, badge, badge), LIGHT_GREY if b.main[1] < 0.6 else DARK, part="badge"
    )
    b.ellipsoid((0.06 + radius - 0.01, 0, -0.02), (0.055, 0.5 * badge, 0.5 * badge), LAMP, part="badge")


def house(b: Builder) -> None:
    """A house: a door in front, a chimney at the back, windows in front and on both sides."""
    depth, width, wall = b.vary(0.46, 0.035), b.vary(0.36, 0.03), b.vary(0.24, 0.02)
    floor = -0.48
    eaves = floor + 2 * wall
    roof = b.vary(0.17, 0.02)
    b.block((0, 0, floor + wall), (depth, width, wall), b.main)
    b.block((0, 0, eaves + roof), (depth - 0.02, width, roof), b.main, (1.0, 0.0))
    slope = math.degrees(math.atan2(2 * roof, width))
    run = math.hypot(2 * roof, width) / 2 + 0.04
    b.block(
        (0, width / 2 + 0.03, eaves + roof),
        (depth + 0.06, run, 0.03),
        b.shade(WOOD, b.vary(0.9, 0.15)),
        roll=slope,
        pair=True,
        part="roof",
    )
    b.block((-0.5 * depth, 0, eaves + 2 * roof), (0.07, 0.07, 0.13), SIGNAL, part="chimney")
    b.block((depth, 0, floor + 0.2), (0.02, 0.1, 0.2), WOOD, part="door")
    b.block((depth, 0.62 * width, floor + 0.28), (0.015, 0.075, 0.085), GLASS, pair=True, part="windows")
    b.ellipsoid((depth - 0.01, 0, eaves + 0.08), (0.03, 0.065, 0.065), GLASS, part="windows")
    for x in (0.45 * depth, -0.45 * depth):
        b.block((x, width, floor + 0.28), (0.09, 0.015, 0.085), GLASS, pair=True, part="windows")


def robot(b: Builder) -> None:
    """A robot: a face and a panel in front, a backpack at the back."""
    body, wide, head = b.vary(0.24, 0.02), b.vary(0.25, 0.02), b.vary(0.16, 0.015)
    b.block((0, 0, 0), (0.17, wide, body), b.main, (1.0, b.vary(0.93, 0.06)))
    b.block((0, 0, body + 0.05 + head), (head, 1.15 * head, head), b.main, part="head")
    b.frustum((0, 0, body + 0.02), 0.07, 0.06, GREY)
    b.frustum((0, 0, body + 0.05 + 2 * head + 0.06), 0.015, 0.08, GREY, part="antenna")
    b.ellipsoid((0, 0, body + 0.05 + 2 * head + 0.14), (0.045, 0.045, 0.045), SIGNAL, part="antenna")
    b.ellipsoid((head, 0.5 * head, body + 0.08 + head), (0.035, 0.055, 0.055), LAMP, pair=True, part="eyes")
    b.block((head, 0, body + 0.05 + 0.4 * head), (0.012, 0.6 * head, 0.025), DARK, part="mouth")
    b.block((0.17, 0, 0.02), (0.02, 0.6 * wide, 0.5 * body), LIGHT_GREY, part="panel")
    b.ellipsoid((0.19, 0, 0.02), (0.02, 0.05, 0.05), SIGNAL, part="knob")
    b.block((-0.22, 0, 0.03), (0.07, 0.6 * wide, 0.7 * body), GREY, part="backpack")
    arm = b.vary(0.19, 0.015)
    b.frustum((0.03, wide + 0.07, 0.16 - arm), 0.06, arm, GREY, pitch=b.vary(-12, 5), pair=True, part="arms")
    b.ellipsoid((0.07, wide + 0.07, 0.13 - 2 * arm), (0.075, 0.075, 0.075), b.second, pair=True, part="hands")
    leg = b.vary(0.15, 0.015)
    b.block((0, 0.5 * wide, -body - leg), (0.075, 0.075, leg), GREY, pair=True, part="legs")
    b.block((0.06, 0.5 * wide, -body - 2 * leg), (0.15, 0.09, 0.045), b.second, pair=True, part="feet")
