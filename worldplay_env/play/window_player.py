"""A person playing: events in, views out, around a session."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pygame

from worldplay_env.cli import in_words
from worldplay_env.play import keys
from worldplay_env.play.goals import Aim
from worldplay_env.play.keys import Command
from worldplay_env.play.loading import Loading, Progress
from worldplay_env.play.overlay import Walk
from worldplay_env.play.recorder import Recorder
from worldplay_env.play.screen import Screen, View
from worldplay_env.play.session import MAKING, Session
from worldplay_env.play.status import Figures
from worldplay_env.worlds.base import CHUNK_LATENTS, MID_GREY

NOTICE_SECONDS = 3.0
SIGN_AFTER = 0.25
"""Seconds that the picture waits before a sign says so: shorter pauses are not worth a word."""
EXPLAIN_AFTER = 1.5
"""... and before it says what for, and how long that usually takes."""
POLL_SECONDS = 0.004
"""How often to look for a frame while there is none."""
REDRAW_SECONDS = 0.1
"""How often the window is drawn without a new frame."""
DRAWING_SECONDS = 0.03
"""So close to a frame that is due nothing else is drawn: it would make that frame late."""
LONGEST_PROMPT = 500


class Player:
    """Runs a session in a window until a person, or the script, leaves.

    Args:
        session: What is played; the player does not close it.
        screen: The window.
        recorder: Writes films and pictures.
        worlds: Their names, or folders: for how long loading them takes.
        first_pictures: uint8 [height, width, 3] for each lane, shown until the worlds have prepared their own.
    """

    def __init__(
        self,
        session: Session,
        screen: Screen,
        recorder: Recorder,
        worlds: Sequence[str],
        first_pictures: tuple[np.ndarray, ...],
    ) -> None:
        self._session, self._screen, self._recorder = session, screen, recorder
        self._loading = Loading(worlds)
        self._first_pictures = first_pictures
        self._leaving = False
        self._overlay = True
        self._typing: str | None = None
        self._typed_t = True
        self._notice = ("", 0.0)
        self._began = time.monotonic()
        self._drawn_at = 0.0

    def run(self) -> None:
        """Play; returns when the window is closed, Esc pressed, or the worlds cannot be loaded."""
        stale, scripted = True, self._session.scripted
        while not self._leaving:
            for event in self._events():
                stale |= self._on_event(event)
            update = self._session.advance()
            if update.command is not None:
                self.obey(update.command)
                continue
            if scripted and not self._session.scripted:
                scripted = False
                self.say("the script is over: the keys are yours")
            if update.frame is not None:
                self._recorder.add(update.frame.pictures)
            if said := self._recorder.notice():
                self.say(said)
            if self._session.error is not None and not self._session.loaded:
                return
            now, until_due = time.monotonic(), self._session.until_due()
            free = until_due is None or until_due > DRAWING_SECONDS
            if update.frame is not None or (free and (stale or now - self._drawn_at > REDRAW_SECONDS)):
                self._screen.draw(self.view())
                self._drawn_at, stale = now, False

    def obey(self, command: Command) -> None:
        """Do what a command says, and have it recorded."""
        session = self._session
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
            case Command.PROMPT if not any(lane.uses_prompt for lane in session.lanes):
                self.say(self._deaf())
            case Command.PROMPT:
                session.release_all()
                self._typing = ""
                self._typed_t = False
                pygame.key.set_repeat(400, 40)
            case Command.HIDE:
                self._overlay = not self._overlay
            case Command.FILM | Command.PICTURE | Command.LEAVE:
                session.note(command)
                self._write_or_leave(command)

    def _write_or_leave(self, command: Command) -> None:
        if command is Command.FILM:
            self._recorder.toggle_film()
        elif command is Command.PICTURE:
            self._recorder.take_picture(self._session.pictures or self._first_pictures)
        else:
            self._leaving = True

    # ---- events

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
            self._leaving = True
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
        elif command := keys.command(name):
            scripted = (Command.RESTART, Command.BOOKMARK, Command.RETURN, Command.PROMPT)
            if self._session.scripted and command in scripted:
                self.say("a script is playing: it decides where the world goes")
            elif command is Command.LEAVE:  # not recorded: the keyboard takes over where a replay of it ends
                self._leaving = True
            else:
                self.obey(command)

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
            if event.key != pygame.K_ESCAPE and self._typing.strip():
                self._session.set_prompt(self._typing.strip())
                deaf = self._deaf()
                self.say(f"from the next second on: {self._typing.strip()}" + (f" ({deaf})" if deaf else ""))
            self._typing = None
            pygame.key.set_repeat(0)

    def _deaf(self) -> str:
        """Return which worlds take no new prompt; "" if all do."""
        names = [lane.name for lane in self._session.lanes if not lane.uses_prompt]
        return "" if not names else f"{' and '.join(names)} {'takes' if len(names) == 1 else 'take'} no new prompt"

    def say(self, text: str) -> None:
        """Show a notice for a moment."""
        self._notice = (text, time.monotonic())

    # ---- views

    def view(self) -> View:
        """Return what the window should show now."""
        session = self._session
        figures, aim = session.figures(), session.aim
        text, since = self._notice
        pictures = session.pictures or self._first_pictures
        captions = tuple(lane.name for lane in session.lanes)
        if aim is not None:
            pictures += (np.full_like(pictures[0], MID_GREY) if aim.picture is None else aim.picture,)
            captions += ("goal" if aim.over else f"goal, steps left: {aim.left}",)
        return View(
            pictures=pictures,
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
            typing=self._typing,
            error=_complaint(session.error),
            overlay=self._overlay,
        )

    def _progress(self) -> Progress | None:
        """Return how far loading has come."""
        activity = self._session.activity
        if self._session.loaded or activity is None:
            return None
        what = activity.what[0].upper() + activity.what[1:]
        return self._loading.progress(what, time.monotonic() - self._began)

    def _sign(self, usual: float | None) -> str:
        """Return why the picture waits, if it has for long enough to say so.

        Args:
            usual: Seconds that a chunk takes.
        """
        session, activity = self._session, self._session.activity
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
        frame, strides = self._session.on_show, self._session.strides
        if frame is None or not strides:
            return ()
        bookmark = self._session.bookmarked_pose
        walks = []
        for lane in range(len(self._session.lanes)):
            poses = np.concatenate([stride.poses[lane] for stride in strides])  # [4 N, 4, 4]
            memory = frame.stride.memory[lane] if frame.stride.memory else np.empty(0, dtype=np.int64)
            remembered = poses[memory]
            walked = poses[: len(poses) - (CHUNK_LATENTS - 1 - frame.latent)]
            at = _seen_from_above
            walks.append(
                Walk(
                    path=at(walked[:, :3, 3]),
                    heading=at(walked[-1, :3, 2]),
                    remembered=at(remembered[:, :3, 3]),
                    bookmark=None if bookmark is None else at(bookmark[lane][:3, 3]),
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
