"""The builder of toybox objects: primitives with a colour and a part name, and the random numbers of an instance."""

import colorsys
import hashlib
import math

import numpy as np
import torch

from toybox.world.shapes import BLOCK, ELLIPSOID, FRUSTUM, Solids

# hue (turns), saturation, value
COLOURS = {
    "red": (0.0, 0.87, 0.88),
    "green": (0.345, 0.75, 0.66),
    "blue": (0.61, 0.80, 0.90),
    "yellow": (0.145, 0.85, 0.97),
    "orange": (0.072, 0.92, 0.98),
    "purple": (0.765, 0.66, 0.72),
    "pink": (0.925, 0.42, 0.98),
    "white": (0.1, 0.03, 0.96),
}
DARK, GREY, LIGHT_GREY = (0.13, 0.13, 0.15), (0.5, 0.5, 0.53), (0.78, 0.78, 0.8)
GLASS, WOOD, CREAM = (0.42, 0.62, 0.74), (0.5, 0.33, 0.19), (0.93, 0.87, 0.75)
BEAK, BISCUIT, LAMP, SIGNAL = (0.96, 0.55, 0.1), (0.85, 0.63, 0.35), (1.0, 0.94, 0.6), (0.75, 0.08, 0.1)

Vector = tuple[float, float, float]

NOTHING, BODY = 0, 1
# The name of each part index. "body" is the main mass, in the named colour; index 0 is a pixel that shows no object.
PARTS = (
    *("nothing", "body"),
    *("cabin", "roof", "wheels", "hubs", "lamps", "grille", "tail lights", "plate"),
    *("beak", "eyes", "wings", "tail"),
    *("legs", "seat", "cushion", "backrest", "back pad"),
    *("drink", "handle", "badge"),
    *("chimney", "door", "windows"),
    *("head", "antenna", "mouth", "panel", "knob", "backpack", "arms", "hands", "feet"),
    *("stem", "gills", "dots"),
    *("nose", "buttons", "hat"),
    *("trunk", "nose cone", "engine", "band", "fins"),
    *("top", "frame", "cone", "rim", "cherry"),
)
PARTS_KEY = hashlib.sha256(" ".join(PARTS).encode()).hexdigest()[:8]  # names the list in the names of cached files


class Builder:
    """Collects the primitives of one instance and draws its random numbers.

    Args:
        colour: A key of COLOURS, of the main parts.
        rng: Where the instance's numbers come from.

    Attributes:
        main: The instance's shade of the colour, RGB in [0, 1].
        second: A darker shade of it.
    """

    def __init__(self, colour: str, rng: np.random.Generator):
        self.rng = rng
        hue, saturation, value = COLOURS[colour]
        self.main = colorsys.hsv_to_rgb(
            (hue + self.vary(0.0, 0.012)) % 1.0,
            min(1.0, saturation * self.vary(1.0, 0.07)),
            min(1.0, value * self.vary(1.0, 0.05)),
        )
        self.second = self.shade(self.main, self.vary(0.8, 0.05))
        self.kinds: list[int] = []
        self.matrices: list[np.ndarray] = []
        self.tapers: list[tuple[float, float]] = []
        self.colours: list[Vector] = []
        self.parts: list[int] = []

    def vary(self, middle: float, spread: float) -> float:
        """A draw from the uniform distribution on [middle - spread, middle + spread]."""
        return middle + spread * float(self.rng.uniform(-1, 1))

    @staticmethod
    def shade(colour: Vector, factor: float) -> Vector:
        """The colour times a factor, at most 1."""
        return tuple(min(1.0, c * factor) for c in colour)

    def ellipsoid(self, centre: Vector, radii: Vector, colour: Vector, **more) -> None:
        """Adds an ellipsoid.

        Args:
            centre: World units.
            radii: Half-axes, world units.
            colour: RGB in [0, 1].
            **more: See `_add`.
        """
        self._add(ELLIPSOID, centre, radii, colour, (1.0, 1.0), **more)

    def frustum(self, centre: Vector, radius: float, half: float, colour: Vector, taper: float = 1.0, **more) -> None:
        """Adds a circular frustum along z.

        Args:
            centre: World units.
            radius: At the bottom, world units; at the top it is taper * radius.
            half: Half of the height, world units.
            colour: RGB in [0, 1].
            taper: In [0, 1].
            **more: See `_add`.
        """
        self._add(FRUSTUM, centre, (radius, radius, half), colour, (taper, taper), **more)

    def block(
        self, centre: Vector, half: Vector, colour: Vector, taper: tuple[float, float] = (1.0, 1.0), **more
    ) -> None:
        """Adds a block whose top is scaled in x and y.

        Args:
            centre: World units.
            half: Half-sizes at the bottom, world units.
            colour: RGB in [0, 1].
            taper: The top's size in x and y over the bottom's, in [0, 1].
            **more: See `_add`.
        """
        self._add(BLOCK, centre, half, colour, taper, **more)

    def _add(self, kind, centre, scale, colour, taper, pitch=0.0, roll=0.0, pair=False, part="body") -> None:
        """Adds a primitive.

        Args:
            kind: ELLIPSOID, FRUSTUM or BLOCK.
            centre: World units.
            scale: Half-sizes along x, y and z, world units.
            colour: RGB in [0, 1].
            taper: The top's size in x and y over the bottom's.
            pitch: Turns z towards +x, degrees; applied after roll.
            roll: Turns z towards +y, degrees.
            pair: Adds the mirror image in y too.
            part: One of PARTS; the main mass is "body".
        """
        p, r = math.radians(pitch), math.radians(roll)
        about_y = np.array([[math.cos(p), 0, math.sin(p)], [0, 1, 0], [-math.sin(p), 0, math.cos(p)]])
        about_x = np.array([[1, 0, 0], [0, math.cos(r), math.sin(r)], [0, -math.sin(r), math.cos(r)]])
        linear = about_y @ about_x @ np.diag(scale)
        for side in (1, -1) if pair else (1,):
            mirror = np.diag([1.0, side, 1.0])
            inverse = np.linalg.inv(mirror @ linear)
            self.kinds.append(kind)
            self.matrices.append(np.concatenate([inverse, -inverse @ (mirror @ np.array(centre))[:, None]], 1))
            self.tapers.append(taper)
            self.colours.append(colour)
            self.parts.append(PARTS.index(part))

    def solids(self) -> Solids:
        """The instance as a batch of one solid."""
        return Solids(
            tuple(self.kinds),
            torch.tensor(np.stack(self.matrices), dtype=torch.float32)[None],
            torch.tensor(self.tapers, dtype=torch.float32)[None],
            torch.tensor(self.colours, dtype=torch.float32)[None],
            tuple(self.parts),
        )
