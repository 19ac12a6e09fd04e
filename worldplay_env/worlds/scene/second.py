"""The second edition of a scene: the first one's place, repainted in harmony, with lanterns and other light."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from worldplay_env.worlds.scene.furniture import GROUND, Canvas, beside
from worldplay_env.worlds.scene.harmony import Harmony, draw_harmony
from worldplay_env.worlds.scene.lighting import LIGHT, SECOND_DAYLIGHT, second_light_row
from worldplay_env.worlds.scene.palette import Colour, Daylight, Pattern, Surface, Weather

MAX_BALLS = 8
MAX_CONTACTS, CONTACT_WIDTH = 16, 11
NO_CONTACTS = np.zeros((0, CONTACT_WIDTH), np.float32)
MAX_LAMPS = 4
NO_LAMPS = np.zeros((0, 4), np.float32)

_STRETCH = 1.7
"""Contact shadows reach this much farther down than they do sideways."""
_LANTERN = (0.11, 0.16, 0.11)
_WARM: Colour = (0.99, 0.85, 0.56)
_GLASS: Colour = (0.60, 0.70, 0.78)
_EVERYWHERE = Pattern(mix=(1, 0, 0), duty=(1, 1))
_OUT_OF_THE_WINDOW: dict[str, Colour] = {"in warm lamplight": (0.20, 0.24, 0.40), "in daylight": (0.80, 0.89, 0.96)}


@dataclass
class Look:
    """How a scene of the second edition looks, while it is built; it draws nothing from the scene's own generator.

    Attributes:
        rng: Its own generator.
        harmony: The palette.
        walls: Which of the canvas's boxes are walls.
    """

    rng: np.random.Generator
    harmony: Harmony
    walls: list[int] = field(default_factory=list)

    def wall_colours(self, segments: int) -> list[str]:
        """Return names of wall colours, to be taken from the end: few where walls are whole, many along a street."""
        first, second, third, *others = self.harmony.walls
        if segments == 1:
            return [third, first, second, first]
        return [str(name) for name in self.rng.permutation([first, second, third, *others[:4]])] * 2

    def finish(
        self,
        canvas: Canvas,
        first_thing: int,
        size: tuple[float, float],
        lowest_wall: float,
        ceiling: float | None,
        daylight: Daylight,
        weather: Weather,
        light: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Repaint the canvas and hang lanterns where it is dim; return the scene's `light`, `contacts` and `lamps`.

        Args:
            canvas: The solids, from `first_thing` on those of the things that stand about.
            first_thing: Index of a box.
            size: Half extents inside the walls.
            lowest_wall: Height that every wall has.
            ceiling: Its y, indoors.
            daylight: Of the first edition.
            weather: The weather.
            light: The first edition's row.
        """
        day = SECOND_DAYLIGHT[daylight.phrase]
        contacts = _contacts(canvas, first_thing)
        lamps = [
            solid[:3]
            for solid, paint in zip(canvas.balls, canvas.ball_surfaces, strict=True)
            if paint.glow and day.lamps > 0
        ]
        for index, paint in enumerate(canvas.box_surfaces):
            painted = self.harmony.paint(paint, wall=index in self.walls, ground=index == 0)
            canvas.box_surfaces[index] = _windows(painted, daylight.phrase, day, indoors=ceiling is not None)
        if ceiling is not None:
            canvas.box_surfaces[1] = self.harmony.paint(canvas.box_surfaces[1], wall=True)
        canvas.ball_surfaces[:] = [_lit(self.harmony.paint(paint), day) for paint in canvas.ball_surfaces]
        if day.lamps >= 0.5:
            lamps += self._lanterns(canvas, size, lowest_wall, 2 if len(lamps) < MAX_LAMPS - 1 else 0)
        sun = light[LIGHT["sun"]]
        room = (size[0], size[1], -1e3 if ceiling is None else ceiling)
        row = second_light_row(self.rng, float(np.arctan2(sun[0], sun[2])), day, weather, room)
        places = np.zeros((MAX_LAMPS, 4), np.float32)
        for place, lamp in zip(places, lamps, strict=False):
            place[:] = (*lamp, day.lamps)
        return row, contacts, places

    def _lanterns(self, canvas: Canvas, size: tuple[float, float], lowest_wall: float, count: int) -> list[Colour]:
        """Hang lanterns beside the corners of some walls, as many as there is room for; return where they shine."""
        shine = Surface((0.3, 0.28, 0.26), _WARM, _EVERYWHERE, glow=0.95)
        foot = min(0.58, lowest_wall - _LANTERN[1])
        places = []
        side = int(self.rng.integers(4))
        for number in range(min(count, MAX_BALLS - len(canvas.balls))):
            turned = (side + 2 * number) % 4
            length, distance = (size[0], size[1]) if turned % 2 == 0 else (size[1], size[0])
            along = float(self.rng.choice((-1, 1)) * (length - 0.3))
            yaw = turned * np.pi / 2
            canvas.ball(beside((0, 0), yaw, along, -distance + 0.05), _LANTERN, shine, foot=foot)
            x, z = beside((0, 0), yaw, along, -distance + 0.2)
            places.append((x, GROUND - foot - _LANTERN[1] / 2, z))
        return places


def begin_look(seed: int) -> Look:
    """Return the look of the scene of a seed."""
    rng = np.random.default_rng([2, seed])
    return Look(rng, draw_harmony(rng))


def _lit(paint: Surface, day: Daylight) -> Surface:
    """Return a lamp's surface, shining or not."""
    if paint.glow == 0:
        return paint
    return replace(paint, second=_WARM if day.lamps >= 0.5 else (0.95, 0.93, 0.87), glow=max(0.25, 0.95 * day.lamps))


def _windows(paint: Surface, phrase: str, day: Daylight, *, indoors: bool) -> Surface:
    """Return a window's surface: lit when it is dark outside, glass by day, and indoors what can be seen through."""
    if paint.glow == 0:
        return paint
    if indoors:
        return replace(paint, second=_OUT_OF_THE_WINDOW.get(phrase, (0.74, 0.82, 0.90)), glow=0.85)
    dark = sum(paint.second) < 1.0
    if day.lamps >= 0.5:
        return replace(paint, second=(0.20, 0.24, 0.34) if dark else _WARM, glow=0.3 if dark else 0.9 * day.lamps)
    return replace(paint, second=(0.36, 0.44, 0.54) if dark else _GLASS, glow=0.25)


def _contacts(canvas: Canvas, first_thing: int) -> np.ndarray:
    """Return what casts contact shadows, the solids of the things that stand about, as `Scene.contacts` has them."""
    solids = [(GROUND - row[1] - row[4], row) for row in canvas.boxes[first_thing:]]
    for x, y, z, half_x, half_y, half_z, cosine, sine in canvas.balls:
        solids.append((GROUND - y - half_y, (x, y, z, 0.7 * half_x, half_y, 0.7 * half_z, cosine, sine)))
    rows = []
    for foot, (x, y, z, half_x, half_y, half_z, cosine, sine) in sorted(solids)[:MAX_CONTACTS]:
        if foot > 0.3:
            continue
        reach = min(0.28, 0.06 + 0.18 * (half_x + half_z) + 0.25 * half_y)
        down = _STRETCH * reach
        extents = (half_x / reach, half_y / down, half_z / reach)
        radius = float(np.linalg.norm((half_x + reach, half_y + down, half_z + reach)))
        rows.append((x, y, z, *extents, cosine / reach, sine / reach, 1 / down, 1 / (half_y + 0.1), radius))
    nothing = (0.0, 1e4, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0)
    return np.array([*rows, *[nothing] * (MAX_CONTACTS - len(rows))], np.float32)
