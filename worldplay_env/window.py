"""A window that plays frames, for `render_mode="human"`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

LEAST_WIDTH = 640
"""Pixels: smaller frames are shown as many times larger as fit into this."""


class Window:
    """A pygame window that shows video in time; made when it is first played to.

    Args:
        title: What its bar says.
        fps: Frames a second.
    """

    def __init__(self, title: str, fps: int) -> None:
        self._title = title
        self._fps = fps
        self._open = False
        self._dismissed = False

    def play(self, frames: Iterable[np.ndarray]) -> None:
        """Show uint8 frames [height, width, 3], each for 1 / fps seconds; nothing once a person closed the window."""
        import pygame

        for frame in frames:
            if self._dismissed:
                return
            height, width = frame.shape[:2]
            if not self._open:
                pygame.display.init()
                pygame.display.set_caption(self._title)
                scale = max(1, LEAST_WIDTH // width)
                self._screen = pygame.display.set_mode((width * scale, height * scale))
                self._clock = pygame.time.Clock()
                self._open = True
            picture = pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB")
            self._screen.blit(pygame.transform.scale(picture, self._screen.get_size()), (0, 0))
            pygame.display.flip()
            if any(event.type == pygame.QUIT for event in pygame.event.get()):
                self.close()
                self._dismissed = True
                return
            self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window; a second time does nothing."""
        if self._open:
            import pygame

            pygame.display.quit()
            self._open = False
