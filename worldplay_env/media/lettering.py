"""Letters for windows, spaced as their font means them to be, at sizes of few pixels too."""

from __future__ import annotations

import functools

import pygame

FINEST, LARGEST = 8, 160
"""Letters are drawn up to so many times larger, but not over so many pixels high, and scaled down: at their own size
each would begin at a whole pixel."""
TEXTS_KEPT = 256


class Lettering:
    """Pygame's own font at one height; it has to be made anew after `pygame.font.quit`.

    Args:
        height: Pixels from line to line, about.
    """

    def __init__(self, height: int) -> None:
        self._finer = max(1, min(FINEST, LARGEST // height))
        self._font = pygame.font.Font(None, self._finer * height)
        self.linesize = round(self._font.get_linesize() / self._finer)
        """Pixels from line to line."""
        self._render = functools.lru_cache(maxsize=TEXTS_KEPT)(self._drawn)

    def size(self, text: str) -> tuple[int, int]:
        """Return the width and height in pixels that a text takes."""
        width, height = self._font.size(text)
        return -(-width // self._finer), -(-height // self._finer)

    def render(self, text: str, colour: tuple[int, ...]) -> pygame.Surface:
        """Return a line of text on a transparent ground; the surface is shared, and must not be drawn on."""
        return self._render(text, colour)

    def _drawn(self, text: str, colour: tuple[int, ...]) -> pygame.Surface:
        large = self._font.render(text, True, colour)
        # A whole number of pixels in each direction, so that nothing is stretched.
        ground = pygame.Surface([self._finer * side for side in self.size(text)], pygame.SRCALPHA)
        ground.fill((*colour[:3], 0))
        ground.blit(large, (0, 0))
        return pygame.transform.smoothscale(ground, self.size(text))
