"""A window that plays frames, for `render_mode="human"`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

LEAST_WIDTH = 640
"""Pixels: smaller frames are enlarged by the largest whole factor that fits."""
LEAST_WIDTH_OF_TWO = 960
"""The same for two frames beside each other."""
LINE = 30
"""Pixels of the line of text below them."""
INK, GROUND = (244, 244, 245), (9, 9, 11)


class Window:
    """A pygame window that plays video in real time; it opens at the first `play`.

    Only the event of closing it is taken from pygame's queue; key events stay there for the program.

    Args:
        title: The text of its title bar.
        fps: Frames a second.
    """

    def __init__(self, title: str, fps: int) -> None:
        self._title = title
        self._fps = fps
        self._open = False
        self._dismissed = False

    def check(self) -> None:
        """Check for a display to open the window on.

        Raises:
            NoDisplay: There is none.
        """
        from worldplay_env.media.display import open_display

        if not self._dismissed:
            open_display()

    def play(self, frames: Iterable[np.ndarray], beside: np.ndarray | None = None, line: str | None = None) -> None:
        """Show frames, each for 1 / fps seconds; a window that the user closed stays closed.

        Args:
            frames: uint8 [height, width, 3].
            beside: A picture of the same size at their right, or None.
            line: A text below them, or None for a window without one.

        Raises:
            NoDisplay: There is no display to open it on.
        """
        if self._dismissed:
            return
        for frame in frames:
            picture = frame if beside is None else np.concatenate([frame, beside], axis=1)
            self._draw(picture, LEAST_WIDTH if beside is None else LEAST_WIDTH_OF_TWO, line)
            if self._closed_by_a_person():
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

    def _draw(self, picture: np.ndarray, least_width: int, line: str | None) -> None:
        import pygame

        from worldplay_env.media.display import open_window
        from worldplay_env.media.lettering import Lettering

        height, width = picture.shape[:2]
        scale = max(1, least_width // width)
        size = (width * scale, height * scale)
        whole = (size[0], size[1] + (0 if line is None else LINE))
        if not self._open:
            self._clock = pygame.time.Clock()
            self._probe = pygame.event.Event(pygame.event.custom_type())
        screen = pygame.display.get_surface()
        if not self._open or screen is None or screen.get_size() != whole:  # pygame has one window for all
            screen = open_window(self._title, whole)
        self._open = True
        shown = pygame.image.frombuffer(picture.tobytes(), (width, height), "RGB")
        screen.fill(GROUND)
        screen.blit(pygame.transform.scale(shown, size), (0, 0))
        if line is not None:
            pygame.font.init()
            text = Lettering(LINE * 2 // 3).render(line, INK)
            screen.blit(text, text.get_rect(center=(whole[0] // 2, whole[1] - LINE // 2)))
        pygame.display.flip()

    def _closed_by_a_person(self) -> bool:
        """Return whether the user closed the window; leave all other events to the program."""
        import pygame

        if pygame.event.get(pygame.QUIT):
            return True
        try:
            pygame.event.post(self._probe)
            pygame.event.clear(self._probe.type)
        except pygame.error:  # the queue is full: nobody reads it, and nothing more would come in
            pygame.event.clear()
        return False
