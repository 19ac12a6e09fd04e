"""The page's screen: runs a presenter, and hands frames and states to the hub."""

from __future__ import annotations

import io
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from worldplay_env.cli import in_words
from worldplay_env.envs.starts import bundled_starts
from worldplay_env.play.chunk_job import Frame
from worldplay_env.play.plan import Plan, begin_elsewhere
from worldplay_env.play.presenter import Presenter
from worldplay_env.play.recorder import side_by_side
from worldplay_env.play.web.hub import Joined, Left, Timed
from worldplay_env.play.web.protocol import (
    KeyEdge,
    NewPrompt,
    NewStart,
    Order,
    Picture,
    Release,
    Rewind,
    state_message,
)

STATE_SECONDS = 0.1
"""How often a state is sent."""
POLL_SECONDS = 0.004
"""How often to look for a frame while there is none."""
LONGEST_WAIT = 0.03
"""Seconds without a look at the session, at most."""
JPEG_QUALITY = 90


class Viewers(Protocol):
    """Who sees what is played; both methods may be called in any thread."""

    def show_state(self, message: str) -> None:
        """Take a state, as JSON."""

    def show_picture(self, picture: Picture) -> None:
        """Take a frame."""


class WebPlayer:
    """Runs a presenter for the viewers of a page; the world waits while nobody plays.

    Args:
        presenter: What is played first.
        plan: What that was begun from.
        begin: Begins a session of another plan.
        viewers: Who sees it.
        inbox: What the player says; a plan is one to begin.
        files: Returns the films and pictures that can be downloaded.
    """

    def __init__(
        self,
        presenter: Presenter,
        plan: Plan,
        begin: Callable[[Plan], Presenter],
        viewers: Viewers,
        inbox: queue.Queue[Joined | Left | Timed | Plan],
        files: Callable[[], list[Path]],
    ) -> None:
        self.presenter, self._plan, self._begin, self._viewers = presenter, plan, begin, viewers
        self._inbox, self._files = inbox, files
        self._moved = False
        self._absent = False
        self._number = 0
        self._told_at = 0.0
        self._on_page: tuple[np.ndarray, ...] = ()
        self._wait_for_player()

    def run(self) -> None:
        """Play; returns when a script leaves, or the worlds cannot be loaded."""
        while not self._is_over():
            changed = self._obey()
            frame = self.presenter.advance()
            now = time.monotonic()
            state_due = changed or now - self._told_at > STATE_SECONDS
            if frame is not None:
                self._show(self.presenter.with_goal(frame.pictures), frame)
            if state_due:
                self._told_at = now
                self._tell()

    def _is_over(self) -> bool:
        """Return whether to end; a world that cannot be begun elsewhere is left for the first one."""
        if not self.presenter.over or self.presenter.leaving or not self._moved:
            return self.presenter.over
        said = in_words(self.presenter.session.error or RuntimeError("it ended"))
        self._replace(self._plan)
        self._moved = False
        self.presenter.say(f"that world could not be begun: {said}")
        return False

    def _obey(self) -> bool:
        """Sleep until a frame is due or the player says something; return whether that was so."""
        until_due = self.presenter.session.until_due()
        seconds = POLL_SECONDS if until_due is None else min(until_due, LONGEST_WAIT)
        if self.presenter.session.paused:
            seconds = LONGEST_WAIT
        try:
            said = self._inbox.get(timeout=seconds) if seconds > 0 else self._inbox.get_nowait()
        except queue.Empty:
            return False
        while True:
            self._do(said)
            try:
                said = self._inbox.get_nowait()
            except queue.Empty:
                return True

    def _do(self, said: Joined | Left | Timed | Plan) -> None:
        session = self.presenter.session
        match said:
            case Joined():
                if self._absent:
                    self._absent = False
                    session.pause(False)
            case Left():
                session.release_all()
                self._wait_for_player()
            case Plan():
                self._replace(said)
            case Timed(KeyEdge(key, down), at):
                (session.press if down else session.release)(key, at)
            case Timed(Release()):
                session.release_all()
            case Timed(Order(command)):
                self.presenter.command(command)
            case Timed(NewPrompt(text)):
                self.presenter.set_prompt(text)
            case Timed(Rewind(chunk)):
                self.presenter.rewind(chunk)
            case Timed(NewStart(name)):
                self._start_from(name)

    def _wait_for_player(self) -> None:
        session = self.presenter.session
        self._absent = self._absent or not session.paused
        session.pause(True)

    def _start_from(self, name: str) -> None:
        if name not in bundled_starts():  # a path is never opened for a client
            self.presenter.say(f"there is no bundled picture {name!r}")
            return
        try:
            self._replace(begin_elsewhere(self._plan, name))
        except (ValueError, OSError) as error:
            self.presenter.say(in_words(error))

    def _replace(self, plan: Plan) -> None:
        """Begin a session of another plan in place of the one that is played; the loaded worlds are shared."""
        if self._plan.goals is not None or self.presenter.session.only_forward:
            self.presenter.say("a session with a task, a script or a recording keeps the picture that it began from")
            return
        before = self.presenter.session
        self.presenter = self._begin(plan)
        self._moved, self._on_page = True, ()
        before.close(timeout=0)
        if self._absent:
            self.presenter.session.pause(True)

    def _tell(self) -> None:
        state, session = self.presenter.state(), self.presenter.session
        if session.history.on_show is None and not _same(state.pictures, self._on_page):
            self._show(state.pictures, None)
        message = state_message(
            state,
            files=[path.name for path in self._files()],
            rewinds_from=session.history.kept_from,
            takes_prompt=any(panel.uses_prompt for panel in session.panels),
        )
        self._viewers.show_state(message)

    def _show(self, pictures: tuple[np.ndarray, ...], frame: Frame | None) -> None:
        self._on_page = pictures
        self._number += 1
        session = self.presenter.session
        file = io.BytesIO()
        Image.fromarray(side_by_side(pictures)).save(file, "JPEG", quality=JPEG_QUALITY)
        pressed_at = frame.record.pressed_at if frame is not None and frame.index == 0 else None
        self._viewers.show_picture(
            Picture(
                number=self._number,
                chunk=len(session.history.records) - (frame is not None),
                index=0 if frame is None else frame.index,
                shown_at=time.monotonic(),
                pressed_at=pressed_at,
                jpeg=file.getvalue(),
            )
        )


def _same(some: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
