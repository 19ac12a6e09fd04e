"""Palettes whose colours go together, and the repainting of a scene in one: the second edition's paint.

Colours are chosen in OKLCH (lightness, chroma, hue), where equal steps look equally large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from worldplay_env.worlds.scene.palette import COLOURS, PATTERNS, Colour, Pattern, Surface

Lch = tuple[float, float, float]

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FROM_LMS, _FROM_LAB = np.linalg.inv(_TO_LMS), np.linalg.inv(_TO_LAB)

# Earth, plaster, slate and leaves rather than pure pigments: (lightness, chroma, hue in degrees).
_MUTED: dict[str, Lch] = {
    "red": (0.58, 0.125, 32), "orange": (0.71, 0.115, 58), "yellow": (0.84, 0.105, 90), "green": (0.60, 0.085, 145),
    "teal": (0.58, 0.070, 195), "blue": (0.53, 0.095, 255), "purple": (0.50, 0.085, 310), "pink": (0.77, 0.080, 8),
    "white": (0.93, 0.016, 85), "grey": (0.70, 0.018, 250), "black": (0.31, 0.016, 270), "brown": (0.46, 0.060, 55),
    "sand": (0.83, 0.055, 82), "sky blue": (0.80, 0.062, 232), "olive": (0.58, 0.078, 118), "wine": (0.43, 0.095, 14),
}  # fmt: skip
_KEY_HUES = (35.0, 62.0, 88.0, 140.0, 195.0, 235.0, 262.0, 350.0)
_SCHEMES = ((-32.0, 0.0, 32.0, 180.0), (0.0, 150.0, 210.0), (-25.0, 0.0, 165.0, 200.0))
"""Hues beside the key hue: analogous with one accent, split complementary, and two pairs."""
_WALLS = ("white", "sand", "grey", "pink", "yellow", "sky blue", "red", "orange", "teal", "olive", "green", "blue")
_TONE = {"bricks": 0.075, "tiles": 0.05, "planks": 0.075}
_PANELS = Pattern(mix=(1, 1, -1), duty=(0.022, 0.03), aspect=0.62, row_shift=0.5)
"""Large slabs of plaster: what a plain wall or floor of the first edition is made of."""


def to_lch(colour: Colour) -> Lch:
    """Return the OKLCH lightness, chroma and hue (degrees) of an sRGB colour in 0..1."""
    srgb = np.asarray(colour, np.float64)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lightness, a, b = _TO_LAB @ np.cbrt(_TO_LMS @ linear)
    return float(lightness), float(np.hypot(a, b)), float(np.degrees(np.arctan2(b, a)) % 360)


def from_lch(lch: Lch) -> Colour:
    """Return the sRGB colour in 0..1 of an OKLCH one; what sRGB cannot show loses chroma, not lightness or hue."""
    lightness, chroma, hue = lch
    for share in np.linspace(1.0, 0.0, 21):
        a, b = share * chroma * np.cos(np.radians(hue)), share * chroma * np.sin(np.radians(hue))
        linear = _FROM_LMS @ (_FROM_LAB @ np.array([lightness, a, b])) ** 3
        if ((linear > -1e-4) & (linear < 1 + 1e-4)).all():
            break
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return float(srgb[0]), float(srgb[1]), float(srgb[2])


def _turn(hue: float, to: float) -> float:
    """Return the angle from one hue to another, in -180..180."""
    return (to - hue + 180) % 360 - 180


@dataclass(frozen=True)
class Harmony:
    """The colours of one scene.

    Attributes:
        key: The hue, in degrees, that the others are chosen by.
        colours: OKLCH of every name in `COLOURS`, hues drawn towards those of the scheme.
        walls: Names for walls, those that suit the key first.
    """

    key: float
    colours: Mapping[str, Lch]
    walls: tuple[str, ...]

    def paint(self, surface: Surface, *, wall: bool = False, ground: bool = False) -> Surface:
        """Return a surface of the first edition in this palette.

        Walls and grounds are paler than things, joints are thin and of nearly the colour of what they join, and the
        two colours of other patterns are as far apart in lightness as can be seen well without being loud.
        """
        first, second = self._named(surface.first), self._named(surface.second)
        shape, period = surface.pattern, surface.period
        if wall:
            first = (first[0] + 0.5 * (0.80 - first[0]), first[1] * 0.9, first[2])
        if ground:
            first = (first[0] + 0.5 * (0.72 - first[0]), first[1] * 0.75, first[2])
        style = next((name for name, pattern in PATTERNS.items() if pattern == shape), "")
        tone = _TONE.get(style, 0.0)
        if style == "plain" and (wall or ground):
            shape, tone = _PANELS, 0.03
            period = (0.9, 0.9 * shape.aspect) if wall else (0.8, 0.8)
            second = (first[0] - 0.12, first[1], first[2])
        elif style in ("bricks", "tiles", "planks"):
            duty = shape.duty if style == "planks" else (shape.duty[0] * 0.6, shape.duty[1] * 0.6)
            if style == "planks":
                duty = (0.04, 0.09)
            shape = replace(shape, duty=duty)
            second = (first[0] + (0.11 if first[0] < 0.62 else -0.13), first[1] * 0.6, first[2])
        elif surface.glow == 0 and style != "plain":
            least, most = (0.09, 0.14) if ground else (0.10, 0.17) if wall else (0.14, 0.30)
            second = _apart(first, second, least, most, own=0.55 if wall or ground else 0.25)
            tone = 0.025 if ground else 0.0
        glowing = surface.glow > 0
        return replace(
            surface,
            first=from_lch(first),
            second=surface.second if glowing else from_lch(second),
            pattern=shape,
            period=period,
            tone=tone,
        )

    def _named(self, colour: Colour) -> Lch:
        """Return this palette's colour for one of `COLOURS`, and any other as it is."""
        names = [name for name, other in COLOURS.items() if other == colour]
        return self.colours[names[0]] if names else to_lch(colour)


def _apart(first: Lch, second: Lch, least: float, most: float, own: float) -> Lch:
    """Return the second colour with its lightness that far from the first's, and a share of the first's hue."""
    gap = second[0] - first[0]
    sign = np.sign(gap) or 1.0
    if not 0.25 < first[0] + sign * least < 0.95:
        sign = -sign
    size = float(np.clip(abs(gap), least, most))
    mixed = []
    for share, (_, chroma, hue) in ((own, first), (1 - own, second)):
        mixed.append(share * chroma * np.exp(1j * np.radians(hue)))
    both = sum(mixed)
    return first[0] + sign * size, float(abs(both)), float(np.degrees(np.angle(both)) % 360)


def draw_harmony(rng: np.random.Generator) -> Harmony:
    """Draw a palette."""
    key = float(rng.choice(_KEY_HUES) + rng.uniform(-10, 10)) % 360
    anchors = [key + step for step in _SCHEMES[rng.integers(len(_SCHEMES))]]
    richness = rng.uniform(0.95, 1.2)
    colours = {}
    for name, (lightness, chroma, hue) in _MUTED.items():
        turn = min((_turn(hue, anchor) for anchor in anchors), key=abs)
        if chroma < 0.02:  # neutrals have a hint of the key
            colours[name] = (lightness, chroma, key)
        else:
            colours[name] = (lightness, chroma * richness, (hue + np.clip(0.5 * turn, -22, 22)) % 360)

    def strangeness(name: str) -> float:
        _, chroma, hue = colours[name]
        distance = chroma * min(abs(_turn(hue, anchor)) for anchor in anchors[:3])
        return float(distance + rng.uniform(0, 1.5) + (0.9 if name in ("grey", "white") else 0.0))

    return Harmony(key, colours, tuple(sorted(_WALLS, key=strangeness)))
