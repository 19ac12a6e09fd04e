"""Things that stand in a scene or hang on its walls, each a few boxes and ellipsoids, and the canvas they go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from worldplay_env.worlds.scene.palette import COLOURS, CONTRAST, Colour, Pattern, Surface, panel, patterned

GROUND = 0.5
"""Height of the ground: eye level is y = 0 and y points down."""


@dataclass
class Canvas:
    """The solids of a scene while it is built."""

    boxes: list[tuple[float, ...]] = field(default_factory=list)
    balls: list[tuple[float, ...]] = field(default_factory=list)
    box_surfaces: list[Surface] = field(default_factory=list)
    ball_surfaces: list[Surface] = field(default_factory=list)

    def box(
        self,
        at: tuple[float, float],
        size: tuple[float, float, float],
        surface: Surface,
        *,
        foot: float = 0.0,
        yaw: float = 0.0,
    ) -> None:
        """Add a box of `size` = (width, height, depth) centred over `at` = (x, z), its foot that far above ground."""
        width, height, depth = size
        centre = (at[0], GROUND - foot - height / 2, at[1])
        self.boxes.append((*centre, width / 2, height / 2, depth / 2, np.cos(yaw), np.sin(yaw)))
        self.box_surfaces.append(surface)

    def ball(
        self,
        at: tuple[float, float],
        size: tuple[float, float, float],
        surface: Surface,
        *,
        foot: float = 0.0,
        yaw: float = 0.0,
    ) -> None:
        """Add an ellipsoid with the given extents, its lowest point that far above the ground."""
        width, height, depth = size
        centre = (at[0], GROUND - foot - height / 2, at[1])
        self.balls.append((*centre, width / 2, height / 2, depth / 2, np.cos(yaw), np.sin(yaw)))
        self.ball_surfaces.append(surface)


def beside(at: tuple[float, float], yaw: float, x: float, z: float) -> tuple[float, float]:
    """Return the ground point at (x, z) in the axes of something that stands at `at`, turned by `yaw`."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return at[0] + cosine * x + sine * z, at[1] - sine * x + cosine * z


def pick(rng: np.random.Generator, *colours: str) -> str:
    """Draw a colour's name."""
    return str(rng.choice(colours or list(COLOURS)))


def with_article(words: str) -> str:
    """Return "a crate" for "crate", "an orange crate" for "orange crate"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


Place = tuple[float, float]
Thing = Callable[[Canvas, np.random.Generator, Place, float], str]


def crate(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a crate there, at times with a smaller one on top; return its description."""
    side = rng.uniform(0.25, 0.42)
    colour = pick(rng)
    canvas.box(
        at, (side, side, side), patterned(colour, str(rng.choice(["bands", "checkers", "diagonals"])), side), yaw=yaw
    )
    if rng.random() < 0.4:
        top = side * rng.uniform(0.5, 0.7)
        canvas.box(at, (top, top, top), patterned(pick(rng), "plain", 1.0), foot=side, yaw=yaw + 0.5)
    return with_article(f"{colour} crate")


def pillar(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a pillar with a capital there; return its description."""
    colour, width = pick(rng), rng.uniform(0.14, 0.24)
    height = rng.uniform(0.8, 1.3)
    canvas.box(at, (width, height, width), patterned(colour, str(rng.choice(["bands", "plain"])), 0.5), yaw=yaw)
    canvas.box(at, (width * 1.6, 0.1, width * 1.6), patterned(CONTRAST[colour], "plain", 1.0), foot=height, yaw=yaw)
    return with_article(f"{colour} pillar")


def table(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a table there, at times with a ball on it; return its description."""
    colour = pick(rng)
    width, depth = rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.5)
    canvas.box(at, (width, 0.06, depth), patterned(colour, "plain", 1.0), foot=0.28, yaw=yaw)
    canvas.box(at, (width * 0.4, 0.28, depth * 0.4), patterned(CONTRAST[colour], "plain", 1.0), yaw=yaw)
    if rng.random() < 0.6:
        canvas.ball(
            beside(at, yaw, width * 0.2, 0), (0.16, 0.16, 0.16), patterned(pick(rng), "plain", 1.0), foot=0.34
        )
    return with_article(f"{colour} table")


def sofa(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a sofa there; return its description."""
    colour = pick(rng)
    seat = patterned(colour, "plain", 1.0)
    canvas.box(at, (0.7, 0.2, 0.32), seat, yaw=yaw)
    canvas.box(beside(at, yaw, 0, 0.2), (0.7, 0.44, 0.1), patterned(colour, "stripes", 0.28), yaw=yaw)
    return with_article(f"{colour} sofa")


def cabinet(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a cabinet with two doors there; return its description."""
    colour, height = pick(rng), rng.uniform(0.55, 0.95)
    width = rng.uniform(0.4, 0.6)
    front = panel(COLOURS[colour], COLOURS[CONTRAST[colour]], (width, height), panes=2)
    canvas.box(at, (width, height, 0.26), front, yaw=yaw)
    return with_article(f"{colour} cabinet")


def tree(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Plant a tree with a round crown there; return its description."""
    trunk, crown = rng.uniform(0.4, 0.7), rng.uniform(0.6, 0.95)
    canvas.box(at, (0.11, trunk + 0.15, 0.11), patterned("brown", "plain", 1.0), yaw=yaw)
    colour = pick(rng, "green", "green", "olive", "orange", "pink", "teal")
    size = (crown, crown * rng.uniform(0.8, 1.2), crown)
    canvas.ball(at, size, patterned(colour, "bands", 0.5, second=str(rng.choice(["green", "olive"]))), foot=trunk)
    return "a tree" if colour in ("green", "olive") else f"a tree with {colour} leaves"


def cypress(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Plant a cypress there; return its description."""
    width, height = rng.uniform(0.26, 0.36), rng.uniform(0.9, 1.4)
    canvas.ball(at, (width, height, width), patterned(pick(rng, "green", "teal"), "bands", 0.6, second="olive"))
    return "a cypress"


def bush(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a tub with a bush in it there; return its description."""
    colour = pick(rng, "red", "white", "sand", "blue", "brown")
    canvas.box(at, (0.44, 0.2, 0.44), patterned(colour, "bands", 0.2), yaw=yaw)
    canvas.ball(
        at, (0.44, 0.4, 0.44), patterned(pick(rng, "green", "olive"), "bands", 0.3, second="green"), foot=0.16
    )
    return "a planted tub"


def lamp(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a lamp post there; return its description."""
    height = rng.uniform(0.7, 1.0)
    canvas.box(at, (0.08, height, 0.08), patterned("black", "plain", 1.0), yaw=yaw)
    everywhere = Pattern(mix=(1, 0, 0), duty=(1, 1))
    shine = Surface(COLOURS["white"], (1.0, 0.92, 0.6), everywhere, glow=1.0)
    canvas.ball(at, (0.24, 0.24, 0.24), shine, foot=height - 0.04)
    return "a lamp"


def stall(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a market stall with an awning there; return its description."""
    colour = pick(rng, "red", "blue", "green", "orange", "purple", "teal")
    canvas.box(at, (0.7, 0.34, 0.36), patterned("brown", "bands", 0.24, second="sand"), yaw=yaw)
    for side in (-1, 1):
        canvas.box(
            beside(at, yaw, side * 0.31, 0), (0.06, 0.5, 0.06), patterned("black", "plain", 1.0), foot=0.34, yaw=yaw
        )
    canvas.box(at, (0.84, 0.12, 0.52), patterned(colour, "stripes", 0.28, second="white"), foot=0.82, yaw=yaw)
    return f"a stall with {with_article(colour)} awning"


def well(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand a fountain there; return its description."""
    colour = pick(rng, "grey", "sand", "white", "red")
    canvas.box(at, (0.6, 0.26, 0.6), patterned(colour, "bricks", 0.3), yaw=yaw)
    canvas.box(at, (0.42, 0.02, 0.42), patterned("sky blue", "plain", 1.0), foot=0.255, yaw=yaw)
    canvas.ball(at, (0.2, 0.5, 0.2), patterned(pick(rng, "white", "sand", "teal"), "plain", 1.0), foot=0.2)
    return "a fountain"


def arch(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Stand an arch there, wide enough to look through; return its description."""
    colour = pick(rng)
    for side in (-1, 1):
        canvas.box(beside(at, yaw, side * 0.42, 0), (0.16, 0.9, 0.16), patterned(colour, "bands", 0.3), yaw=yaw)
    canvas.box(at, (1.04, 0.18, 0.2), patterned(CONTRAST[colour], "plain", 1.0), foot=0.9, yaw=yaw)
    return with_article(f"{colour} arch")


def ball(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Lay a ball there; return its description."""
    colour, size = pick(rng), rng.uniform(0.3, 0.5)
    canvas.ball(at, (size, size, size), patterned(colour, "bands", size * 0.7))
    return with_article(f"{colour} ball")


def steps(canvas: Canvas, rng: np.random.Generator, at: Place, yaw: float) -> str:
    """Build three steps there; return its description."""
    colour = pick(rng, "white", "sand", "grey", "teal", "red")
    for i in range(3):
        shade = colour if i % 2 == 0 else CONTRAST[colour]
        canvas.box(beside(at, yaw, 0, 0.12 * i), (0.6, 0.12 * (i + 1), 0.12), patterned(shade, "plain", 1.0), yaw=yaw)
    return f"{colour} steps"


INDOORS: tuple[Thing, ...] = (crate, pillar, table, sofa, cabinet, ball, lamp, bush, steps)
OUTDOORS: tuple[Thing, ...] = (crate, pillar, tree, tree, cypress, bush, lamp, stall, well, arch, ball, steps)


@dataclass(frozen=True)
class Wall:
    """A side of a scene: the inner face's middle on the ground, its length and height, and where it faces.

    `yaw` turns the wall's own axes, in which z points into the scene, to the scene's.
    """

    at: Place
    length: float
    height: float
    yaw: float


def hang(canvas: Canvas, rng: np.random.Generator, wall: Wall, along: float, kind: str) -> str:
    """Put a door, window, painting or banner on a wall, `along` units from its middle; return its description."""
    at = beside(wall.at, wall.yaw, along, 0.0)
    colour = pick(rng)
    inside = COLOURS[CONTRAST[colour]]
    tall = wall.height

    def put(size: tuple[float, float], foot: float, surface: Surface) -> None:
        canvas.box(at, (size[0], size[1], 0.06), surface, foot=foot, yaw=wall.yaw)

    if kind == "door":
        size = (0.36, min(0.72, tall * 0.8))
        put(size, 0.0, panel(inside, COLOURS[colour], size))
    elif kind == "window":
        size = (0.5, 0.42)
        sky: Colour = (0.98, 0.90, 0.55)
        put(size, min(0.42, tall - 0.5), panel(COLOURS["white"], sky, size, panes=2, glow=1.0))
        return "a window"
    elif kind == "banner":
        size = (0.24, min(0.8, tall * 0.7))
        put(size, max(0.1, tall - size[1] - 0.08), patterned(colour, "bands", size[1] / 2))
    else:
        size = (rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.45))
        put(size, min(0.42, tall - 0.55), panel(COLOURS["brown"], COLOURS[colour], size))
    return with_article(f"{colour} {kind}")
