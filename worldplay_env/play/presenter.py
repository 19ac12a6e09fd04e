"""What a player does and shows, for any screen: commands in, states out, around a session.

A screen calls `advance` often, draws the `state`, and passes on keys and commands. The window of `window_player` is
one such screen, the page of `web` another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldplay_env.cli import in_words
from worldplay_env.play import keys
from worldplay_env.play.chunk_job import Frame
from worldplay_env.play.goals import Aim
from worldplay_env.play.keys import Command
from worldplay_env.play.loading import Loading, Progress
from worldplay_env.play.recorder import Recorder
from worldplay_env.play.screen_state import ScreenState, Walk
from worldplay_env.play.session import MAKING, Session
from worldplay_env.play.status import Figures
from worldplay_env.worlds.base import MID_GREY

NOTICE_SECONDS = 3.0
SIGN_AFTER = 0.25
"""Seconds that the picture waits before a sign says so: shorter pauses are not worth a word."""
EXPLAIN_AFTER = 1.5
"""... and before it says what for, and how long that usually takes."""
LONGEST_PROMPT = 500
"""Characters of a prompt."""
SCRIPTED = (Command.RESTART, Command.BOOKMARK, Command.RETURN)
"""Commands that a script gives, and a person cannot while it plays: they decide where the world goes."""


class Presenter:
    """Does what a person or a script says to a session, and tells a screen what to show.

    Args:
        session: What is played; the presenter does not close it.
        recorder: Writes films and pictures.
        worlds: Their names, or folders: for how long loading them takes.
        first_pictures: uint8 [height, width, 3] for each panel, shown until the worlds have prepared their own.
    """

    def __init__(
        self, session: Session, recorder: Recorder, worlds: Sequence[str], first_pictures: tuple[np.ndarray, ...]
    ) -> None:
        self.session = session
        self.leaving = False
        """Whether the person or the script has left."""
        self.overlay = True
        """Whether keys, map and figures are shown."""
        self._recorder = recorder
        self._loading = Loading(worlds)
        self._first_pictures = first_pictures
        self._scripted = session.scripted
        self._notice = ("", 0.0)
        self._began = time.monotonic()

    def files(self) -> list[Path]:
        """Return the films and pictures that are complete."""
        return [*self._recorder.written]

    @property
    def over(self) -> bool:
        """Whether nothing more is to be shown: somebody has left, or the worlds cannot be loaded."""
        return self.leaving or (self.session.error is not None and not self.session.loaded)

    def advance(self) -> Frame | None:
        """Return the frame to show from now on, or None if the one on show stays; films it, and obeys the script."""
        while (update := self.session.advance()).command is not None:
            self.obey(update.command)
            if self.leaving:
                return None
        if self._scripted and not self.session.scripted:
            self._scripted = False
            self.say("the script is over: the keys are yours")
        if update.frame is not None:
            self._recorder.add(update.frame.pictures)
        if said := self._recorder.notice():
            self.say(said)
        return update.frame

    def command(self, command: Command) -> None:
        """Do what a person asks for, unless a script decides it."""
        if self.session.scripted and command in SCRIPTED:
            self.say("a script is playing: it decides where the world goes")
        elif command is Command.LEAVE:  # not recorded: the keyboard takes over where a replay of it ends
            self.leaving = True
        else:
            self.obey(command)

    def obey(self, command: Command) -> None:
        """Do what a command says, and have it recorded; a prompt is typed on the screen."""
        session = self.session
        match command:
            case Command.RESTART:
                session.restart()
            case Command.BOOKMARK:
                self.say("bookmarked: N comes back here" if session.bookmark() else "nothing to bookmark yet")
            case Command.RETURN:
                if not session.go_back():
                    self.say("no bookmark yet: B makes one")
            case Command.PAUSE:
                session.pause(not session.paused)
            case Command.HIDE:
                self.overlay = not self.overlay
            case Command.FILM | Command.PICTURE | Command.LEAVE:
                session.note(command)
                self._write_or_leave(command)

    def _write_or_leave(self, command: Command) -> None:
        if command is Command.FILM:
            self._recorder.toggle_film()
        elif command is Command.PICTURE:
            self._recorder.take_picture(self.session.history.pictures or self._first_pictures)
        else:
            self.leaving = True

    def rewind(self, chunk: int) -> None:
        """Go back to the beginning of a chunk of the way walked, and take another way from there."""
        try:
            if not self.session.rewind(chunk):
                self.say("that is too long ago to go back to")
        except ValueError as error:
            self.say(str(error))

    def may_prompt(self) -> bool:
        """Return whether a new prompt can be typed; else say why not."""
        if self.session.scripted:
            self.say("a script is playing: it decides where the world goes")
        elif not any(panel.uses_prompt for panel in self.session.panels):
            self.say(self._without_prompt())
        else:
            return True
        return False

    def set_prompt(self, text: str) -> None:
        """Change the prompt from the next chunk on; blank text changes nothing."""
        if (prompt := text.strip()[:LONGEST_PROMPT]) and self.may_prompt():
            self.session.set_prompt(prompt)
            unused = self._without_prompt()
            self.say(f"from the next second on: {prompt}" + (f" ({unused})" if unused else ""))

    def _without_prompt(self) -> str:
        """Return which worlds take no new prompt; "" if all do."""
        names = [panel.name for panel in self.session.panels if not panel.uses_prompt]
        return "" if not names else f"{' and '.join(names)} {'takes' if len(names) == 1 else 'take'} no new prompt"

    def say(self, text: str) -> None:
        """Show a notice for a moment."""
        self._notice = (text, time.monotonic())

    def state(self) -> ScreenState:
        """Return what a screen should show now."""
        session = self.session
        figures, aim = session.figures(), session.aim
        text, since = self._notice
        captions = tuple(panel.name for panel in session.panels)
        if aim is not None:
            captions += ("goal" if aim.over else f"goal, steps left: {aim.left}",)
        return ScreenState(
            pictures=self.with_goal(session.history.pictures or self._first_pictures),
            captions=captions,
            held=session.held,
            action=keys.action_of(session.held),
            figures=_lines(figures) if session.loaded else (),
            walks=self._walks(),
            notice=text if time.monotonic() - since < NOTICE_SECONDS else "",
            sign=self._sign(figures.chunk),
            verdict=_verdict(aim),
            progress=self._progress(),
            filming=self._recorder.filming,
            paused=session.paused,
            error=_complaint(session.error),
            overlay=self.overlay,
        )

    def with_goal(self, pictures: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Return pictures of the panels and of the goal, if there is one: grey while it is looked for."""
        aim = self.session.aim
        if aim is None:
            return pictures
        return (*pictures, np.full_like(pictures[0], MID_GREY) if aim.picture is None else aim.picture)

    def _progress(self) -> Progress | None:
        """Return how far loading has come."""
        activity = self.session.activity
        if self.session.loaded or activity is None:
            return None
        what = activity.what[0].upper() + activity.what[1:]
        return self._loading.progress(what, time.monotonic() - self._began)

    def _sign(self, usual: float | None) -> str:
        """Return why the picture waits, if it has for long enough to say so.

        Args:
            usual: Seconds that a chunk takes.
        """
        session, activity = self.session, self.session.activity
        waiting = session.waiting()
        aim = session.aim
        if waiting < SIGN_AFTER or session.error is not None or (aim is not None and aim.over):
            return ""
        if session.awaits_keys and activity is None:
            return "the next step waits for your keys"
        dots = "." * (1 + int(2 * waiting) % 3)
        if waiting < EXPLAIN_AFTER or activity is None:
            return dots
        if activity.what == MAKING:
            takes = "the first one takes longest" if usual is None else f"usually {usual:.1f} s"
        else:
            takes = "usually a second or two"
        return f"{activity.what} ({takes}), {waiting:.0f} s {dots}"

    def _walks(self) -> tuple[Walk, ...]:
        """Return what the map shows: the way up to the frame on show."""
        frame, records = self.session.history.on_show, self.session.history.records
        if frame is None or not records:
            return ()
        bookmark = self.session.history.bookmark
        walks = []
        for panel in range(len(self.session.panels)):
            poses = np.concatenate([record.poses[panel] for record in records])  # [4 N, 4, 4]
            memory = frame.record.memory[panel] if frame.record.memory else np.empty(0, dtype=np.int64)
            remembered = poses[memory]
            walked = poses[: len(poses) - (len(frame.record.keys) - 1 - frame.latent)]
            at = _seen_from_above
            walks.append(
                Walk(
                    path=at(walked[:, :3, 3]),
                    heading=at(walked[-1, :3, 2]),
                    remembered=at(remembered[:, :3, 3]),
                    bookmark=None if bookmark is None else at(bookmark.poses[panel][:3, 3]),
                )
            )
        return tuple(walks)


def _seen_from_above(places: np.ndarray) -> np.ndarray:
    """Return right and forward of points or directions [..., 3]."""
    return places[..., [0, 2]]


def _lines(figures: Figures) -> tuple[str, ...]:
    made = "" if figures.made is None else ", over 999 made" if figures.made > 999 else f", {figures.made:.0f} made"
    lines = [f"{figures.played:.1f} frames/s shown{made}"]
    if figures.key_to_frame is not None:
        lines.append(f"key to picture {figures.key_to_frame:.2f} s")
    if figures.chunk is not None:
        lines.append(f"chunk {figures.chunk:.2f} s")
        if figures.parts:
            lines.append("  ".join(f"{part} {seconds:.2f}" for part, seconds in figures.parts.items()))
    lines.append(f"age {figures.age:.1f} s")
    return tuple(lines)


def _verdict(aim: Aim | None) -> str:
    if aim is None or not aim.over:
        return ""
    if aim.reached:
        return f"Goal reached! Steps: {aim.steps}\n(Enter: the next goal)"
    away = f"{aim.distance:.2f} units and {aim.angle:.0f} degrees away"
    return f"No steps left, and the goal is {away}\n(Enter: once more)"


def _complaint(error: Exception | None) -> str:
    return "" if error is None else f"The world stopped: {in_words(error)} (Enter starts over)"
