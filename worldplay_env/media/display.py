"""The display, and the title, class and icon of the project's windows."""

from __future__ import annotations

import os
import sys

import numpy as np
import pygame

NAME = "worldplay"
"""The class of the windows, for a desktop's grouping and rules."""
ICON_SIZE = 64
_NO_DISPLAYS = ("dummy", "offscreen")
"""What SDL falls back to without a word where there is no display."""


class NoDisplay(RuntimeError):  # noqa: N818 (it is what there is)
    """There is no display to open a window on."""


def open_display() -> None:
    """Make pygame's display ready for a window.

    Raises:
        NoDisplay: There is none.
    """
    wanted = os.environ.get("SDL_VIDEODRIVER")
    if sys.platform.startswith("linux") and not (
        wanted or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise NoDisplay("there is no display to open a window on: neither DISPLAY nor WAYLAND_DISPLAY is set")
    for name in ("SDL_VIDEO_X11_WMCLASS", "SDL_VIDEO_WAYLAND_WMCLASS"):
        # Pygame has put the program's file there when it was imported, "__main__.py" for a module.
        if os.environ.get(name, "") in ("", os.path.basename(sys.argv[0])):
            os.environ[name] = NAME
    try:
        pygame.display.init()
    except pygame.error as error:
        raise NoDisplay(f"there is no display to open a window on: {error}") from error
    if pygame.display.get_driver() in _NO_DISPLAYS and wanted not in _NO_DISPLAYS:
        pygame.display.quit()
        raise NoDisplay(f"there is no display to open a window on (DISPLAY={os.environ.get('DISPLAY', '')})")
    if pygame.display.get_driver() == "x11":
        # SDL would send every picture through OpenGL, which takes a virtual or remote display, where it is
        # drawn by the processor, ten times as long as X's shared memory.
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
    if pygame.display.get_surface() is None:
        pygame.display.set_icon(_icon())


def open_window(title: str, size: tuple[int, int], flags: int = 0) -> pygame.Surface:
    """Open a window or resize the open one; return its surface.

    Args:
        title: What its bar says.
        size: Width and height in pixels.
        flags: Pygame's.

    Raises:
        NoDisplay: There is no display.
    """
    open_display()
    try:
        pygame.display.set_caption(title)
        return pygame.display.set_mode(size, flags)
    except pygame.error as error:
        pygame.display.quit()
        raise NoDisplay(f"there is no display to open a window on: {error}") from error


def _icon() -> pygame.Surface:
    """Return a path that leads to a hill under the sun."""
    rows, columns = (np.mgrid[:ICON_SIZE, :ICON_SIZE] + 0.5) / ICON_SIZE  # 0..1, downwards and to the right
    picture = np.empty((ICON_SIZE, ICON_SIZE, 3))
    picture[:] = np.array([125, 211, 252]) - 60 * rows[..., None]
    picture[np.hypot(rows - 0.28, columns - 0.7) < 0.13] = (250, 204, 21)
    picture[rows > 0.62 - 0.22 * np.exp(-(((columns - 0.35) / 0.2) ** 2))] = (58, 125, 68)
    picture[(rows > 0.5) & (np.abs(columns - 0.5) < 0.45 * (rows - 0.47))] = (231, 216, 182)
    image = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))
    return pygame.image.frombuffer(image.tobytes(), (ICON_SIZE, ICON_SIZE), "RGB")
