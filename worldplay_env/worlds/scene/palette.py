"""What scenes are painted with: named colours, surface patterns, times of day and weathers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Colour = tuple[float, float, float]

# fmt: off
COLOURS: dict[str, Colour] = {
    "red": (0.80, 0.16, 0.12), "orange": (0.95, 0.50, 0.10), "yellow": (0.96, 0.82, 0.22),
    "green": (0.22, 0.62, 0.22), "teal": (0.08, 0.56, 0.54), "blue": (0.14, 0.34, 0.82),
    "purple": (0.48, 0.22, 0.66), "pink": (0.94, 0.48, 0.62), "white": (0.95, 0.94, 0.90),
    "grey": (0.52, 0.54, 0.57), "black": (0.10, 0.10, 0.13), "brown": (0.48, 0.28, 0.13),
    "sand": (0.86, 0.72, 0.48), "sky blue": (0.46, 0.74, 0.95), "olive": (0.42, 0.46, 0.14),
    "wine": (0.44, 0.06, 0.18),
}
# fmt: on

CONTRAST = {
    "red": "white",
    "orange": "wine",
    "yellow": "blue",
    "green": "white",
    "teal": "sand",
    "blue": "white",
    "purple": "yellow",
    "pink": "purple",
    "white": "black",
    "grey": "white",
    "black": "yellow",
    "brown": "sand",
    "sand": "brown",
    "sky blue": "blue",
    "olive": "yellow",
    "wine": "sand",
}
"""The second colour of a pattern, chosen so that the pattern can be seen at night and in fog."""


@dataclass(frozen=True)
class Pattern:
    """A mix of a surface's two colours: two pulse trains, along u and v, combined as u·a + v·b + uv·a·b.

    Attributes:
        mix: The weights of the first train, the second and their product.
        duty: The share of each period in which each train is 1.
        aspect: Length of the v period over that of the u period.
        row_shift: How far each row of v is moved along u, in u periods (bricks).
        shear: How much v is added to u (diagonals).
    """

    mix: tuple[float, float, float] = (0.0, 0.0, 0.0)
    duty: tuple[float, float] = (0.5, 0.5)
    aspect: float = 1.0
    row_shift: float = 0.0
    shear: float = 0.0


PATTERNS = {
    "plain": Pattern(),
    "checkers": Pattern(mix=(1, 1, -2)),
    "stripes": Pattern(mix=(1, 0, 0)),
    "bands": Pattern(mix=(0, 1, 0)),
    "bricks": Pattern(mix=(1, 1, -1), duty=(0.12, 0.22), aspect=0.5, row_shift=0.5),
    "tiles": Pattern(mix=(1, 1, -1), duty=(0.14, 0.14)),
    "windows": Pattern(mix=(0, 0, 1), duty=(0.5, 0.55)),
    "diagonals": Pattern(mix=(1, 0, 0), shear=1.0),
    "planks": Pattern(mix=(1, 1, -1), duty=(0.08, 0.5), aspect=0.35, row_shift=0.4),
}


@dataclass(frozen=True)
class Surface:
    """The paint of one solid: two colours in a pattern of a given period (in units)."""

    first: Colour
    second: Colour = (0.0, 0.0, 0.0)
    pattern: Pattern = field(default_factory=Pattern)
    period: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    glow: float = 0.0
    """How much the second colour shines by itself (lit windows, lamps)."""
    tone: float = 0.0
    """How far bricks, tiles or planks differ in lightness, as a share; drawn in the second edition."""

    def row(self, edition: int = 1) -> np.ndarray:
        """Return the surface as the renderer reads it: float32 [SURFACE_WIDTH], in edition 2 with the tone after."""
        pattern = self.pattern
        values = (*self.first, *self.second, *self.period, *self.offset, *pattern.duty, *pattern.mix)
        own = (pattern.row_shift, pattern.shear, self.glow)
        return np.array((*values, *own) if edition == 1 else (*values, *own, self.tone), np.float32)


SURFACE_WIDTH = 18


def patterned(colour: str, pattern: str, period: float, second: str | None = None) -> Surface:
    """Return a surface of a named colour and pattern; the second colour contrasts with the first by default."""
    shape = PATTERNS[pattern]
    other = COLOURS[second or CONTRAST[colour]]
    return Surface(COLOURS[colour], other, shape, (period, period * shape.aspect))


def panel(frame: Colour, inside: Colour, size: tuple[float, float], panes: int = 1, glow: float = 0.0) -> Surface:
    """Return a framed panel that covers a face of `size` = (width, height): a door, a window, a painting."""
    duty = 0.8 if panes == 1 else 0.84
    offset = 0.4 if panes == 1 else 0.92
    shape = Pattern(mix=(0, 0, 1), duty=(duty, duty))
    return Surface(frame, inside, shape, (size[0] / panes, size[1] / panes), (offset, offset), glow)


@dataclass(frozen=True)
class Daylight:
    """The light of a time of day; directions point to the sun (y is down, so its y is negative)."""

    phrase: str
    sun: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    elevation: float
    """Of the sun, in radians."""
    lamps: float = 0.0
    """How brightly windows and lamps shine; they light what is near them in the second edition."""


DAYLIGHT = (
    Daylight("at noon", (0.62, 0.60, 0.52), (0.56, 0.58, 0.62), (0.16, 0.42, 0.86), (0.72, 0.86, 0.96), 0.95),
    Daylight("in the morning", (0.66, 0.54, 0.36), (0.52, 0.54, 0.60), (0.32, 0.56, 0.88), (0.98, 0.88, 0.68), 0.5),
    Daylight("at dusk", (0.72, 0.40, 0.20), (0.46, 0.40, 0.50), (0.24, 0.20, 0.48), (0.98, 0.54, 0.26), 0.3, 0.8),
    Daylight("at night", (0.36, 0.42, 0.58), (0.52, 0.54, 0.68), (0.03, 0.04, 0.14), (0.14, 0.18, 0.38), 0.8, 1.0),
)


@dataclass(frozen=True)
class Weather:
    """What the weather does to the light and the ground."""

    phrase: str
    sun: float = 1.0
    """Factor of the sun's light; what is lost goes to the ambient light in part."""
    grey: float = 0.0
    """How far the sky goes to grey."""
    fog: float = 0.03
    """Density, one over units."""
    snow: float = 0.0
    """How far surfaces that face up go to white."""
    clouds: float = 0.0


WEATHER = (
    Weather("clear sky"),
    Weather("scattered clouds", sun=0.9, clouds=0.7, grey=0.1),
    Weather("overcast", sun=0.45, grey=0.7, clouds=0.3, fog=0.05),
    Weather("fog", sun=0.4, grey=0.6, fog=0.14),
    Weather("snow", sun=0.8, grey=0.3, snow=0.9, fog=0.06),
)

INDOOR_LIGHT = (
    Daylight("in daylight", (0.40, 0.40, 0.38), (0.66, 0.66, 0.66), (0.4, 0.6, 0.9), (0.8, 0.9, 1.0), 0.9, 0.6),
    Daylight(
        "in warm lamplight", (0.46, 0.36, 0.22), (0.60, 0.54, 0.46), (0.05, 0.05, 0.1), (0.1, 0.1, 0.2), 1.1, 1.0
    ),
    Daylight("in cool light", (0.30, 0.36, 0.44), (0.56, 0.62, 0.70), (0.4, 0.6, 0.9), (0.8, 0.9, 1.0), 0.7, 0.5),
)
