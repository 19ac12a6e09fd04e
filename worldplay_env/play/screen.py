"""The window: draws a `ScreenState`, whatever it was made from."""

from __future__ import annotations

from typing import Final

import numpy as np
import pygame

from worldplay_env.media.display import open_window
from worldplay_env.play import overlay
from worldplay_env.play.keys import HELP
from worldplay_env.play.overlay import Type
from worldplay_env.play.screen_state import ScreenState

BACKGROUND = (9, 9, 11)
SIDE_BY_SIDE: Final = 1.25
"""Pictures are shown one below the other if that makes them larger by more than this."""
MOST_LINES: Final = 6
"""Of one message: more would hide the picture."""


class Screen:
    """A window that can be resized; nothing of pygame but display and fonts is used, so that sound may be missing.

    Args:
        title: What its bar says.
        size: Width and height in pixels.

    Raises:
        NoDisplay: There is none.
    """

    def __init__(self, title: str, size: tuple[int, int]) -> None:
        self.surface = open_window(title, size, pygame.RESIZABLE)
        pygame.font.init()
        self._type = Type(self.surface.get_size())
        self._typed_for = self.surface.get_size()

    def close(self) -> None:
        """Close the window; a second time does nothing."""
        pygame.font.quit()
        pygame.display.quit()

    def draw(self, state: ScreenState) -> None:
        """Show a state."""
        self.surface = pygame.display.get_surface() or self.surface
        size = self.surface.get_size()
        if size != self._typed_for:
            self._type, self._typed_for = Type(size), size
        self.surface.fill(BACKGROUND)
        places = self._places(state.pictures)
        for picture, rect in zip(state.pictures, places, strict=True):
            self._draw_picture(picture, rect)
        if state.overlay:
            panels = self._draw_overlay(state)
            if len(places) > 1:
                for index, (caption, rect) in enumerate(zip(state.captions, places, strict=True)):
                    self._draw_caption(caption, index, rect, panels)
        self._draw_messages(state)
        pygame.display.flip()

    def _places(self, pictures: tuple[np.ndarray, ...]) -> list[pygame.Rect]:
        """Return where pictures go: as large as fits, next to one another or, in a high window, below."""
        width, height = self.surface.get_size()
        count = len(pictures)
        tallness = [picture.shape[0] / picture.shape[1] for picture in pictures]
        across = min(width / count, height / max(tallness))
        stacked = min(width, height / count / max(tallness))
        columns = count if SIDE_BY_SIDE * across >= stacked else 1
        cell_width, cell_height = width // columns, height // (count // columns)
        places = []
        for index, ratio in enumerate(tallness):
            picture_width = min(cell_width, round(cell_height / ratio))
            rect = pygame.Rect(0, 0, max(1, picture_width), max(1, min(cell_height, round(picture_width * ratio))))
            rect.center = (
                index % columns * cell_width + cell_width // 2,
                index // columns * cell_height + cell_height // 2,
            )
            places.append(rect)
        return places

    def _draw_picture(self, picture: np.ndarray, rect: pygame.Rect) -> None:
        height, width = picture.shape[:2]
        surface = pygame.image.frombuffer(np.ascontiguousarray(picture).data, (width, height), "RGB")
        pygame.transform.smoothscale(surface.convert(self.surface), rect.size, self.surface.subsurface(rect))

    def _draw_caption(self, caption: str, index: int, picture: pygame.Rect, panels: list[pygame.Rect]) -> None:
        """Draw what a picture is along its edge, where no panel covers it."""
        kind = self._type
        text = kind.fitting(picture.width - 2 * kind.px(16), caption, kind.text)
        label = overlay.text_panel(kind, [text], kind.text, colour=overlay.PATHS[index % len(overlay.PATHS)])
        inside = picture.inflate(-2 * kind.px(4), -2 * kind.px(4))
        rects = [
            label.get_rect(**{corner: getattr(inside, corner)})
            for corner in ("midtop", "topleft", "topright", "midbottom", "bottomleft", "bottomright")
        ]
        free = (rect for rect in rects if rect.collidelist(panels) < 0)
        self.surface.blit(label, next(free, rects[0]))

    def _draw_overlay(self, state: ScreenState) -> list[pygame.Rect]:
        """Draw the panels along the window's edges; return where they are."""
        kind, surface = self._type, self.surface
        width, height = surface.get_size()
        edge = kind.px(8)
        hints = kind.wrapped(width - 2 * edge - 2 * kind.px(5), HELP, kind.small, gap="   ")
        foot = overlay.text_panel(kind, hints, kind.small, colour=overlay.FAINT, centred=True, width=width)
        panels = [surface.blit(foot, (0, height - foot.get_height()))]
        bottom = height - foot.get_height() - kind.px(6)

        for keys, corner in ((overlay.MOVE_KEYS, "bottomleft"), (overlay.LOOK_KEYS, "bottomright")):
            drawn = overlay.cluster(kind, keys, state.held)
            place = (edge, bottom) if corner == "bottomleft" else (width - edge, bottom)
            panels.append(surface.blit(drawn, drawn.get_rect(**{corner: place})))
        if state.action and state.typing is None:
            action = overlay.text_panel(kind, [state.action], kind.large, centred=True, width=kind.px(120))
            panels.append(surface.blit(action, action.get_rect(midbottom=(width // 2, bottom))))
        if state.figures:
            panels.append(surface.blit(overlay.text_panel(kind, state.figures, kind.small), (edge, edge)))
        if state.walks:
            drawn = overlay.draw_map(kind, kind.px(120), state.walks)
            panels.append(surface.blit(drawn, drawn.get_rect(topright=(width - edge, edge))))
        return panels

    def _draw_messages(self, state: ScreenState) -> None:
        """Draw what is said even while the overlay is hidden, in the middle, from below upwards."""
        kind, surface = self._type, self.surface
        width, height = surface.get_size()
        room = width - 2 * kind.px(110) if state.overlay else width - 4 * kind.px(8)
        y = height - kind.px(82)
        if state.typing is not None:
            y = self._draw_typing(state.typing, y)
        if state.progress is not None:
            drawn = overlay.bar(kind, kind.px(300), state.progress.fraction)
            surface.blit(drawn, drawn.get_rect(midbottom=(width // 2, y)))
            y = self._say(state.progress.text, y - drawn.get_height() - kind.px(4), width - 2 * kind.px(8))
        if state.sign:
            y = self._say(state.sign, y, room, colour=overlay.FAINT)
        if state.verdict:
            y = self._say(state.verdict, y, room, colour=overlay.LIT)
        if state.notice:
            y = self._say(state.notice, y, width - 2 * kind.px(8))
        if state.error:
            y = self._say(state.error, y, width - 2 * kind.px(8), colour=overlay.ALARM)
        if state.paused:
            drawn = overlay.text_panel(kind, ["paused"], kind.large, centred=True)
            surface.blit(drawn, drawn.get_rect(center=(width // 2, height // 2)))
        if state.filming is not None:
            self._draw_filming(state.filming)

    def _say(self, text: str, y: int, room: int, colour: overlay.Colour = overlay.INK) -> int:
        """Draw a text, in as many lines as it needs, that ends above `y`; return what is above it."""
        kind = self._type
        width = room - 2 * kind.px(5)
        lines = [line for part in text.splitlines() for line in kind.wrapped(width, part.split(), kind.text)]
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], "..."]
        drawn = overlay.text_panel(kind, lines, kind.text, colour=colour, centred=True)
        rect = drawn.get_rect(midbottom=(self.surface.get_width() // 2, y))
        self.surface.blit(drawn, rect)
        return rect.top - kind.px(4)

    def _draw_typing(self, text: str, y: int) -> int:
        kind, width = self._type, self.surface.get_width()
        room = width - 2 * kind.px(20)
        shown = text
        while shown and kind.text.size(f"prompt: {shown}_")[0] > room - 2 * kind.px(5):
            shown = shown[1:]  # the end is what is being typed
        drawn = overlay.text_panel(
            kind, [f"prompt: {shown}_", "Enter: from the next second on   Esc: cancel"], kind.text, width=room
        )
        rect = drawn.get_rect(midbottom=(width // 2, y))
        self.surface.blit(drawn, rect)
        return rect.top - kind.px(4)

    def _draw_filming(self, seconds: float) -> None:
        kind = self._type
        drawn = overlay.text_panel(kind, [f"     film {seconds:.1f} s"], kind.text)
        pygame.draw.circle(drawn, overlay.ALARM, (kind.px(13), drawn.get_height() // 2), kind.px(4))
        self.surface.blit(drawn, drawn.get_rect(midtop=(self.surface.get_width() // 2, self._type.px(28))))
