"""Procedural scenes, pure functions of a seed, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import numpy as np
import torch

from worldplay_env.summary import one_line
from worldplay_env.worlds.scene import furniture
from worldplay_env.worlds.scene.collision import is_free
from worldplay_env.worlds.scene.furniture import GROUND, Canvas, Wall, beside, hang, pick
from worldplay_env.worlds.scene.lighting import LAMP_REACH, light_row
from worldplay_env.worlds.scene.lighting import LIGHT as LIGHT
from worldplay_env.worlds.scene.palette import COLOURS, DAYLIGHT, INDOOR_LIGHT, SURFACE_WIDTH, WEATHER, patterned
from worldplay_env.worlds.scene.second import MAX_BALLS, NO_CONTACTS, NO_LAMPS, Look, begin_look

HELD_OUT_SEED = 900_000
"""Scenes of this seed and above are never trained on."""
MAX_BOXES = 40
EDITIONS = (1, 2)


@dataclass(frozen=True)
class Scene:
    """One place. Lengths are in units, y points down, the ground is at y = 0.5 and eye level at y = 0.

    Attributes:
        seed: What it was built from.
        kind: "room", "courtyard", "street", ...
        caption: A short description, for prompts.
        boxes: float32 [MAX_BOXES, 8]: centre, half extents, cosine and sine of the yaw.
        balls: float32 [MAX_BALLS, 8]: the same for ellipsoids.
        surfaces: float32 [MAX_BOXES + MAX_BALLS, SURFACE_WIDTH, in edition 2 one more]: their paint (`Surface.row`).
        light: float32, sun, sky and weather (`LIGHT`; in edition 2 lamps too: `SECOND_LIGHT`).
        bounds: float64 [2, 3]: the corners of the box that a camera may be in.
        start: float64 [4, 4]: a camera-to-world pose that looks at something.
        edition: How it is painted and lit: 1, or 2.
        contacts: float32 [MAX_CONTACTS, CONTACT_WIDTH] in edition 2, the boxes that cast contact shadows: centre;
            half extents and cosine and sine of the yaw over how far the shadow reaches; one over how far it reaches
            down, and over the height within which it fades in; the radius of a ball around box and shadow.
        lamps: float32 [MAX_LAMPS, 4] in edition 2: where lamps are, and how brightly they shine.
    """

    seed: int
    kind: str
    caption: str
    boxes: np.ndarray
    balls: np.ndarray
    surfaces: np.ndarray
    light: np.ndarray
    bounds: np.ndarray
    start: np.ndarray
    edition: int = 1
    contacts: np.ndarray = field(default_factory=lambda: NO_CONTACTS)
    lamps: np.ndarray = field(default_factory=lambda: NO_LAMPS)

    __repr__ = one_line

    @property
    def solids(self) -> np.ndarray:
        """Boxes and balls: float32 [MAX_BOXES + MAX_BALLS, 8]."""
        return np.concatenate([self.boxes, self.balls])


class SceneBatch(NamedTuple):
    """Scenes as the renderer reads them: the arrays of `Scene`, stacked [S, ...] as float32 tensors.

    All are of one edition: of the second if there are `contacts`.
    """

    boxes: torch.Tensor
    balls: torch.Tensor
    surfaces: torch.Tensor
    light: torch.Tensor
    contacts: torch.Tensor | None = None
    lamps: torch.Tensor | None = None

    def take(self, which: torch.Tensor) -> Self:
        """Return the chosen scenes, one for each frame."""
        return type(self)(
            self.boxes[which],
            self.balls[which],
            self.surfaces[which],
            self.light[which],
            None if self.contacts is None else self.contacts[which],
            None if self.lamps is None else self.lamps[which],
        )

    def lights(self, where: dict[str, slice]) -> dict[str, torch.Tensor]:
        """Return the light's values by name, each [S, width, 1]; `where` is `LIGHT` or `SECOND_LIGHT`."""
        return {name: self.light[:, part, None] for name, part in where.items()}

    def visible(self, c2w: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> Self:
        """Leave out, of a single scene, the solids that no ray of a beam can meet.

        Args:
            c2w: Float32 [4, 4], the camera.
            low: Float32 [2], the least x and y of the beam's rays in camera axes, z = 1.
            high: Float32 [2], the greatest.
        """

        def seen(solids: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
            centre = (solids[:, :3] - c2w[:3, 3]) @ c2w[:3, :3]  # in camera axes
            across, ahead = centre[:, :2], centre[:, 2:]
            # How far the centre is from the beam's four sides, outwards.
            beyond = torch.maximum(
                (low * ahead - across) / (1 + low * low).sqrt(), (across - high * ahead) / (1 + high * high).sqrt()
            )
            return ((beyond < radius) & (ahead > -radius)).all(1) & (radius[:, 0] > 0)

        kept = []
        for solids in (self.boxes[0], self.balls[0]):
            keep = seen(solids, solids[:, 3:6].norm(dim=1, keepdim=True))  # of a ball around the solid
            keep[0] = True  # never empty
            kept.append(keep.nonzero()[:, 0])
        surfaces = torch.cat([kept[0], kept[1] + self.boxes.shape[1]])
        contacts, lamps = self.contacts, self.lamps
        if contacts is not None and lamps is not None:
            contacts = contacts[:, seen(contacts[0], contacts[0, :, 10:]).nonzero()[:, 0]]
            lamps = lamps[:, seen(lamps[0], LAMP_REACH * (lamps[0, :, 3:] > 0)).nonzero()[:, 0]]
        return type(self)(
            self.boxes[:, kept[0]], self.balls[:, kept[1]], self.surfaces[:, surfaces], self.light, contacts, lamps
        )


def stack(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> SceneBatch:
    """Return the scenes as one batch of tensors on the device.

    Raises:
        ValueError: They are not all of one edition.
    """
    editions = sorted({scene.edition for scene in scenes})
    if len(editions) > 1:
        raise ValueError(f"scenes of one edition are rendered together, got editions {editions}")
    names = ("boxes", "balls", "surfaces", "light", "contacts", "lamps")[: 4 if editions == [1] else 6]
    arrays = (np.stack([getattr(scene, name) for scene in scenes]) for name in names)
    return SceneBatch(*(torch.from_numpy(array).to(device) for array in arrays))


def build(seed: int, edition: int = 1) -> Scene:
    """Return the scene of a seed; equal seeds give equal scenes, on any machine.

    Args:
        seed: What the scene is drawn from.
        edition: 1, or 2: the same place in a harmonised palette, with contact shadows, hills behind hills, and lamps
            that shine; at dusk, at night and in lamplight it has lanterns on its walls besides.

    Raises:
        ValueError: A negative seed, or no such edition.
    """
    if seed < 0:
        raise ValueError(f"a scene's seed must be 0 or more, got {seed}")
    if edition not in EDITIONS:
        raise ValueError(f"a scene's edition must be one of {EDITIONS}, got {edition!r}")
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(_KINDS)))
    plan = _KINDS[kind]
    canvas = Canvas()
    size = (rng.uniform(*plan.width), rng.uniform(*plan.depth))  # half extents
    look = begin_look(seed) if edition == 2 else None
    words = _enclose(canvas, rng, plan, size, look)
    indoors = plan.ceiling
    daylight = (INDOOR_LIGHT if indoors else DAYLIGHT)[rng.integers(3 if indoors else 4)]
    weather = WEATHER[0] if indoors else WEATHER[rng.choice(5, p=(0.3, 0.25, 0.15, 0.12, 0.18))]
    first_thing = len(canvas.boxes)
    things, taken = _furnish(canvas, rng, plan, size)
    light = light_row(rng, daylight, weather)
    contacts, lamps = NO_CONTACTS, NO_LAMPS
    if look:
        ceiling = canvas.boxes[1][1] + canvas.boxes[1][4] if indoors else None
        light, contacts, lamps = look.finish(
            canvas, first_thing, size, plan.wall[0], ceiling, daylight, weather, light
        )
    place = f"a {kind} {daylight.phrase}"
    caption = ", ".join([place, *words, *([] if indoors else [weather.phrase]), *things[:3]])
    boxes, balls, surfaces = _padded(canvas, edition)
    height = 1.0 if plan.ceiling else 0.8
    bounds = np.array(
        [[-size[0] + 0.15, GROUND - height, -size[1] + 0.15], [size[0] - 0.15, GROUND - 0.15, size[1] - 0.15]]
    )
    paint = surfaces, light
    scene = Scene(seed, kind, caption, boxes, balls, *paint, bounds, np.eye(4), edition, contacts, lamps)
    return replace(scene, start=_start(rng, scene, taken, size))


@dataclass(frozen=True)
class _Plan:
    """How a kind of scene is laid out; ranges are in units."""

    width: tuple[float, float]
    depth: tuple[float, float]
    wall: tuple[float, float]
    segments: tuple[int, int]
    walls: tuple[str, ...]
    ground: tuple[str, ...]
    things: tuple[furniture.Thing, ...]
    count: tuple[int, int]
    hangings: tuple[str, ...]
    ceiling: bool = False


_KINDS = {
    "room": _Plan((1.1, 2.0), (1.1, 2.2), (1.05, 1.3), (1, 1), ("plain", "stripes", "bands", "bricks", "tiles"),
                  ("checkers", "planks", "tiles", "stripes"), furniture.INDOORS, (3, 5),
                  ("door", "window", "painting", "banner"), ceiling=True),
    "hall": _Plan((1.6, 2.4), (2.2, 3.2), (1.3, 1.6), (1, 2), ("bricks", "bands", "tiles", "plain"),
                  ("checkers", "tiles", "diagonals"), (furniture.pillar, furniture.pillar, *furniture.INDOORS),
                  (5, 7), ("door", "banner", "painting"), ceiling=True),
    "courtyard": _Plan((1.3, 2.4), (1.3, 2.6), (0.8, 1.4), (1, 2), ("bricks", "plain", "planks", "tiles"),
                       ("checkers", "tiles", "bricks", "planks"), furniture.OUTDOORS, (4, 6),
                       ("door", "window", "banner")),
    "garden": _Plan((1.6, 2.6), (1.6, 2.8), (0.4, 0.7), (1, 2), ("bands", "planks", "plain"),
                    ("stripes", "checkers", "plain"), (furniture.tree, furniture.bush, *furniture.OUTDOORS),
                    (6, 7), ()),
    "street": _Plan((0.9, 1.3), (2.6, 3.4), (0.9, 2.0), (2, 3), ("windows", "bricks", "bands", "planks"),
                    ("tiles", "bands", "stripes"), furniture.OUTDOORS, (4, 6), ("door", "window", "banner")),
    "square": _Plan((1.8, 2.8), (1.8, 2.8), (0.8, 2.0), (2, 3), ("windows", "bricks", "plain", "bands"),
                    ("checkers", "tiles", "diagonals"), furniture.OUTDOORS, (5, 7), ("door", "banner")),
}  # fmt: skip


def _enclose(
    canvas: Canvas, rng: np.random.Generator, plan: _Plan, size: tuple[float, float], look: Look | None
) -> list[str]:
    """Add ground, ceiling and walls with what hangs on them; return words about them."""
    ground = pick(rng, "sand", "grey", "green", "white", "brown", "olive", "teal", "red", "sky blue")
    pattern = str(rng.choice(plan.ground))
    reach = 2 * max(size) + (2.0 if plan.ceiling else 60.0)
    floor = patterned(ground, pattern, rng.uniform(0.55, 0.95), second=pick(rng, "white", "black", "brown", "sand"))
    canvas.box((0, 0), (reach, 1.0, reach), floor, foot=-1.0)
    height = rng.uniform(*plan.wall)
    if plan.ceiling:
        beams = patterned(
            pick(rng, "white", "sand", "sky blue", "grey"), "bands", 1.1, second=pick(rng, "brown", "white", "grey")
        )
        canvas.box((0, 0), (reach, 1.0, reach), beams, foot=height)
    colours = list(rng.permutation(list(COLOURS)))
    if look:
        colours = look.wall_colours(plan.segments[1])
    pattern_of_all = str(rng.choice(plan.walls))
    for side in range(4):
        yaw = side * np.pi / 2
        length, distance = (2 * size[0], size[1]) if side % 2 == 0 else (2 * size[1], size[0])
        segments = int(rng.integers(plan.segments[0], plan.segments[1] + 1))
        for i in range(segments):
            colour = str(colours.pop())
            tall = height if plan.ceiling else rng.uniform(*plan.wall)
            along = (i + 0.5) / segments * length - length / 2
            style = pattern_of_all if rng.random() < 0.5 else str(rng.choice(plan.walls))
            paint = patterned(colour, style, rng.uniform(0.5, 0.8) if style != "windows" else rng.uniform(0.45, 0.6))
            if style == "windows":
                lit = replace(paint, second=(0.98, 0.88, 0.5) if rng.random() < 0.6 else (0.12, 0.18, 0.3), glow=0.8)
                paint = replace(lit, offset=(0.0, 0.3))
            # The wall's own z axis points into the scene; 0.2 of its thickness lies behind the inner face.
            wall = Wall(beside((0, 0), yaw, along, -distance), length / segments, tall, yaw)
            if look:
                look.walls.append(len(canvas.boxes))
            canvas.box(
                beside((0, 0), yaw, along, -distance - 0.2),
                (wall.length + (0.0 if segments > 1 else 0.8), tall, 0.4),
                paint,
                yaw=yaw,
            )
            if plan.hangings and rng.random() < (0.9 if segments == 1 else 0.45):
                room = max(0.0, wall.length / 2 - 0.45)
                hang(canvas, rng, wall, rng.uniform(-room, room), str(rng.choice(plan.hangings)))
            if side == 2 and i == 0:
                named = {"plain": "", "windows": ""}.get(style, " " + style)
                words = f"{colour}{named}" + (" walls" if named == "" else "")
    return [words, f"{ground} {pattern} floor" if plan.ceiling else f"{ground} ground"]


def _furnish(
    canvas: Canvas, rng: np.random.Generator, plan: _Plan, size: tuple[float, float]
) -> tuple[list[str], list[tuple[float, float]]]:
    """Add things that keep clear of one another; return what and where they are."""
    things: list[str] = []
    taken: list[tuple[float, float]] = []
    wanted = int(rng.integers(plan.count[0], plan.count[1] + 1))
    for _ in range(40):
        if len(taken) == wanted:
            break
        edge = 0.38
        at = (rng.uniform(edge - size[0], size[0] - edge), rng.uniform(edge - size[1], size[1] - edge))
        if any(np.hypot(at[0] - x, at[1] - z) < 0.95 for x, z in taken):
            continue
        thing = plan.things[rng.integers(len(plan.things))]
        words = thing(canvas, rng, at, rng.uniform(-np.pi, np.pi))
        if words not in things:
            things.append(words)
        taken.append(at)
    return things, taken


def _padded(canvas: Canvas, edition: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes, balls and surfaces as arrays of fixed size; absent solids are points far underground."""
    nothing = (0.0, 1e4, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    arrays = []
    paints = []
    for rows, surfaces, limit in (
        (canvas.boxes, canvas.box_surfaces, MAX_BOXES),
        (canvas.balls, canvas.ball_surfaces, MAX_BALLS),
    ):
        absent = limit - min(len(rows), limit)
        arrays.append(np.array([*rows[:limit], *[nothing] * absent], np.float32))
        paint = [surface.row(edition) for surface in surfaces[:limit]]
        paints += [*paint, *[np.ones(SURFACE_WIDTH + edition - 1, np.float32)] * absent]
    return arrays[0], arrays[1], np.stack(paints)


def _start(
    rng: np.random.Generator, scene: Scene, taken: list[tuple[float, float]], size: tuple[float, float]
) -> np.ndarray:
    """Return a free pose at eye level with things in view at a good distance and room to move ahead."""
    tries = 24
    poses = level_poses(
        rng.uniform(-size[0] + 0.3, size[0] - 0.3, tries),
        rng.uniform(-size[1] + 0.3, size[1] - 0.3, tries),
        rng.uniform(-np.pi, np.pi, tries),
    )
    position, ahead = poses[:, :3, 3], poses[:, :3, 2]
    path = position[:, None] + np.linspace(0, 0.8, 5)[:, None] * ahead[:, None]  # [tries, 5, 3]
    free = is_free(scene.solids[None], scene.bounds[None], path.reshape(-1, 3), margin=0.2).reshape(tries, 5)
    offset = np.array(taken).reshape(-1, 2) - position[:, None, [0, 2]]  # [tries, things, 2]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    facing = (offset * ahead[:, None, [0, 2]]).sum(-1) / np.maximum(distance, 1e-6)
    in_view = (facing > 0.75) & (distance > 0.7) & (distance < 3.0)
    score = 3.0 * free.sum(1) - 100.0 * ~free[:, 0] + 2.0 * in_view.sum(1)
    return poses[int(score.argmax())]


def level_poses(x: np.ndarray, z: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Return cameras, float64 [N, 4, 4], at eye level over (x, z), turned by `yaw` radians from z to x."""
    poses = np.zeros((len(x), 4, 4))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(yaw)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(yaw), -np.sin(yaw)
    poses[:, 0, 3], poses[:, 2, 3] = x, z
    poses[:, 1, 1] = poses[:, 3, 3] = 1.0
    return poses
