"""The window: pygame's events in, states drawn, around a presenter."""

from __future__ import annotations

import time
from dataclasses import replace

import pygame

from worldplay_env.play import keys
from worldplay_env.play.keys import Command
from worldplay_env.play.presenter import LONGEST_PROMPT, Presenter
from worldplay_env.play.screen import Screen
from worldplay_env.play.screen_state import ScreenState

POLL_SECONDS = 0.004
"""How often to look for a frame while there is none."""
REDRAW_SECONDS = 0.1
"""How often the window is drawn without a new frame."""
DRAWING_SECONDS = 0.03
"""So close to a frame that is due nothing else is drawn: it would make that frame late."""


class WindowPlayer:
    """Runs a presenter in a window until a person, or the script, leaves.

    Args:
        presenter: What is played.
        screen: The window.
    """

    def __init__(self, presenter: Presenter, screen: Screen) -> None:
        self._presenter, self._session, self._screen = presenter, presenter.session, screen
        self._typing: str | None = None
        self._typed_t = True
        self._drawn_at = 0.0

    def run(self) -> None:
        """Play; returns when the window is closed, Esc pressed, or the worlds cannot be loaded."""
        stale = True
        while not self._presenter.over:
            for event in self._events():
                stale |= self._on_event(event)
            frame = self._presenter.advance()
            if self._presenter.over:
                return
            now, until_due = time.monotonic(), self._session.until_due()
            free = until_due is None or until_due > DRAWING_SECONDS
            if frame is not None or (free and (stale or now - self._drawn_at > REDRAW_SECONDS)):
                self._screen.draw(self.state())
                self._drawn_at, stale = now, False

    def state(self) -> ScreenState:
        """Return what the window should show now."""
        return replace(self._presenter.state(), typing=self._typing)

    def _events(self) -> list[pygame.event.Event]:
        """Sleep until a frame is due or an event comes, whichever is first; return the events."""
        until_due = self._session.until_due()
        if until_due is None:
            seconds = POLL_SECONDS if not self._session.paused else DRAWING_SECONDS
        else:
            seconds = min(until_due, DRAWING_SECONDS)
        if seconds > 0.002:
            event = pygame.event.wait(int(seconds * 1000))
            return ([] if event.type == pygame.NOEVENT else [event]) + pygame.event.get()
        time.sleep(seconds)
        return pygame.event.get()

    def _on_event(self, event: pygame.event.Event) -> bool:
        """Do what an event asks for; return whether the window looks different after it."""
        if event.type == pygame.QUIT:
            self._presenter.leaving = True
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._session.release_all()
        elif self._typing is not None and event.type in (pygame.KEYDOWN, pygame.TEXTINPUT):
            self._type(event)
        elif event.type == pygame.KEYDOWN:
            self._press(pygame.key.name(event.key))
        elif event.type == pygame.KEYUP and (key := keys.movement(pygame.key.name(event.key))):
            self._session.release(key)
        elif event.type not in (pygame.VIDEORESIZE, pygame.WINDOWEXPOSED, pygame.WINDOWSIZECHANGED):
            return False
        return True

    def _press(self, name: str) -> None:
        if key := keys.movement(name):
            self._session.press(key)
        elif (command := keys.command(name)) is Command.PROMPT:
            if self._presenter.may_prompt():
                self._session.release_all()
                self._typing, self._typed_t = "", False
                pygame.key.set_repeat(400, 40)
        elif command is not None:
            self._presenter.command(command)

    def _type(self, event: pygame.event.Event) -> None:
        """Edit the prompt."""
        assert self._typing is not None
        if event.type == pygame.TEXTINPUT:
            if not self._typed_t and event.text.lower() == "t":  # the key that asked for the prompt
                self._typed_t = True
                return
            self._typing = (self._typing + event.text)[:LONGEST_PROMPT]
        elif event.key == pygame.K_BACKSPACE:
            self._typing = self._typing[:-1]
        elif event.key in (pygame.K_RETURN, pygame.K_KP_ENTER, pygame.K_ESCAPE):
            if event.key != pygame.K_ESCAPE:
                self._presenter.set_prompt(self._typing)
            self._typing = None
            pygame.key.set_repeat(0)
