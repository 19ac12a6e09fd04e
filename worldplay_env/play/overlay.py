"""What is drawn over the picture: key clusters, figures, the map, lines of text; each on a surface of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pygame

from worldplay_env.media.lettering import Lettering
from worldplay_env.play.screen_state import Walk

Colour = tuple[int, int, int] | tuple[int, int, int, int]

INK = (244, 244, 245)
FAINT = (176, 176, 184)
GLASS = (12, 12, 16, 168)
"""The ground of every panel: the picture shows through."""
EDGE = (200, 200, 210, 70)
"""Around every panel: it shows where there is no picture behind."""
LIT = (250, 204, 21)
LIT_INK = (24, 24, 27)
PATHS = ((125, 211, 252), (249, 168, 212))
"""Of the panels on the map."""
REMEMBERED = (251, 146, 60)
ALARM = (248, 113, 113)

MOVE_KEYS = (("w", "W", 1, 0), ("a", "A", 0, 1), ("s", "S", 1, 1), ("d", "D", 2, 1))
LOOK_KEYS = (("up", "up", 1, 0), ("left", "left", 0, 1), ("down", "down", 1, 1), ("right", "right", 2, 1))
"""Each key, its label, and its column and row in its cluster."""
LEAST_EXTENT = 1.0
"""World units that the map shows at least, so that the first steps do not fill it."""
MOST_POINTS = 3000
"""Of a path: the newest, so that a long walk stays quick to draw."""


class Type:
    """Fonts and lengths for a window of some size.

    Args:
        size: Width and height of the window in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.unit = min(max(min(size[0] / 640, size[1] / 400), 0.5), 4.0)
        """Pixels that are one pixel of a 640x400 window."""
        self.text = Lettering(max(14, self.px(18)))
        self.small = Lettering(max(13, self.px(16)))
        self.large = Lettering(max(16, self.px(24)))

    def px(self, length: float) -> int:
        """Return a length for a 640x400 window in this window's pixels."""
        return max(1, round(length * self.unit))

    def fitting(self, width: int, text: str, font: Lettering) -> str:
        """Return as much of a text as fits, with an ellipsis for the rest."""
        if font.size(text)[0] <= width:
            return text
        while text and font.size(text + "...")[0] > width:
            text = text[:-1]
        return text + "..."

    def wrapped(self, width: int, words: Iterable[str], font: Lettering, gap: str = " ") -> list[str]:
        """Return lines of whole words, as many in each as fit."""
        lines: list[str] = []
        for word in words:
            if lines and font.size(lines[-1] + gap + word)[0] <= width:
                lines[-1] += gap + word
            else:
                lines.append(self.fitting(width, word, font))
        return lines


def panel(size: tuple[int, int], radius: int) -> pygame.Surface:
    """Return an empty panel."""
    surface = pygame.Surface(size, pygame.SRCALPHA)
    _glass(surface, surface.get_rect(), radius)
    return surface


def _glass(surface: pygame.Surface, rect: pygame.Rect, radius: int) -> None:
    pygame.draw.rect(surface, GLASS, rect, border_radius=radius)
    pygame.draw.rect(surface, EDGE, rect, width=1, border_radius=radius)


def text_panel(
    kind: Type,
    lines: Sequence[str],
    font: Lettering,
    *,
    colour: Colour = INK,
    centred: bool = False,
    width: int = 0,
) -> pygame.Surface:
    """Return lines of text on a panel, at least `width` wide."""
    rendered = [font.render(line, colour) for line in lines]
    margin, step = kind.px(5), font.linesize
    inner = max([*(line.get_width() for line in rendered), width - 2 * margin])
    surface = panel((inner + 2 * margin, step * len(rendered) + 2 * kind.px(3)), kind.px(4))
    for row, line in enumerate(rendered):
        x = margin + (inner - line.get_width()) // 2 if centred else margin
        surface.blit(line, (x, kind.px(3) + row * step))
    return surface


def cluster(kind: Type, keys: Sequence[tuple[str, str, int, int]], held: frozenset[str]) -> pygame.Surface:
    """Return the keys of `MOVE_KEYS` or `LOOK_KEYS`, lit where they are held."""
    side, gap = kind.px(25), kind.px(3)
    surface = pygame.Surface((3 * side + 2 * gap, 2 * side + gap), pygame.SRCALPHA)
    for key, label, column, row in keys:
        rect = pygame.Rect(column * (side + gap), row * (side + gap), side, side)
        lit = key in held
        if lit:
            pygame.draw.rect(surface, (*LIT, 240), rect, border_radius=kind.px(4))
        else:
            _glass(surface, rect, kind.px(4))
        ink = LIT_INK if lit else INK
        if len(label) == 1:
            letter = kind.text.render(label, ink)
            surface.blit(letter, letter.get_rect(center=rect.center))
        else:
            pygame.draw.polygon(surface, ink, _arrow(label, rect.center, side * 0.24))
    return surface


def _arrow(label: str, centre: tuple[int, int], reach: float) -> list[tuple[float, float]]:
    ahead = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[label]
    return _triangle(centre, np.array(ahead, dtype=float), reach)


def _triangle(centre: Sequence[float], ahead: np.ndarray, reach: float) -> list[tuple[float, float]]:
    """Return a triangle that points `ahead` on the screen."""
    middle, aside = np.asarray(centre, dtype=float), np.array([-ahead[1], ahead[0]])
    corners = (
        middle + reach * ahead,
        middle + reach * (0.9 * aside - 0.8 * ahead),
        middle - reach * (0.9 * aside + 0.8 * ahead),
    )
    return [(float(x), float(y)) for x, y in corners]


def draw_map(kind: Type, side: int, walks: Sequence[Walk]) -> pygame.Surface:
    """Return the paths walked, seen from above: what was ahead at the start is up."""
    surface = panel((side, side), kind.px(4))
    places = np.concatenate(
        [np.atleast_2d(points) for walk in walks for points in (walk.path, walk.bookmark) if points is not None]
    )
    low, high = places.min(axis=0), places.max(axis=0)
    extent = max(LEAST_EXTENT, float((high - low).max()))
    scale, middle = (side - 2 * kind.px(14)) / extent, (low + high) / 2

    def on_map(points: np.ndarray) -> np.ndarray:
        return side / 2 + (points - middle) * scale * np.array([1, -1])

    for walk, colour in zip(walks, PATHS, strict=False):
        if len(walk.path) > 1:
            pygame.draw.lines(surface, colour, False, on_map(walk.path[-MOST_POINTS:]).tolist(), kind.px(1.5))
    for walk in walks:
        if len(walk.path) <= MOST_POINTS:
            pygame.draw.circle(surface, FAINT, on_map(walk.path[0]).tolist(), kind.px(2.5))
        for point in on_map(walk.remembered):
            pygame.draw.circle(surface, REMEMBERED, point.tolist(), kind.px(2.5))
        if walk.bookmark is not None:
            _flag(surface, on_map(walk.bookmark), kind.px(5))
    for walk, colour in zip(walks, PATHS, strict=False):
        ahead = walk.heading * np.array([1, -1])
        length = float(np.hypot(*ahead))
        ahead = ahead / length if length > 1e-6 else np.array([0.0, -1.0])
        here = _triangle(on_map(walk.path[-1]).tolist(), ahead, kind.px(6))
        pygame.draw.polygon(surface, INK if len(walks) == 1 else colour, here)
    return surface


def _flag(surface: pygame.Surface, foot: np.ndarray, reach: float) -> None:
    corners = foot + reach * np.array([[0, 0], [0, -2], [1.3, -1.5], [0, -1]])
    pygame.draw.polygon(surface, LIT, corners.tolist())


def bar(kind: Type, width: int, fraction: float) -> pygame.Surface:
    """Return a progress bar."""
    height = kind.px(8)
    surface = panel((width, height), height // 2)
    done = pygame.Rect(0, 0, max(height, round(width * min(1.0, fraction))), height)
    pygame.draw.rect(surface, LIT, done, border_radius=height // 2)
    return surface
