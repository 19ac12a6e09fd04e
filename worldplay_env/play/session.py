"""A running world under somebody's keys: what to show when, for any screen and over any world.

A `Session` makes chunks in a thread of its own, one ahead of the picture at most. Its owner, in one other thread,
tells it which keys go down and up, and calls `advance` often: it gives the frame to show whenever one is due.

What is made follows from the start, the seed and the keys of each chunk alone. When a chunk is begun does not matter
to it, nor how fast anything is; so a recorded session can be made again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from worldplay_env.control.actions import label_of_keys
from worldplay_env.play.chunk_job import Checkpoint, ChunkJob, ChunkRecord, Frame, Panel
from worldplay_env.play.goals import Aim, Goals
from worldplay_env.play.history import History, Place
from worldplay_env.play.key_buffer import KeyBuffer
from worldplay_env.play.keys import Command
from worldplay_env.play.pacing import Lead, Playback
from worldplay_env.play.replay import ChunkKeys, Recording, Replay
from worldplay_env.play.status import Activity, Figures, Update
from worldplay_env.worlds.base import LAYOUT, Rollout, Start, World

MAKING = "making the next second"
LOOKING = "looking for a goal"


class Session:
    """One or more worlds, side by side, under the same keys.

    Args:
        panels: The worlds.
        start: Where each begins.
        fps: Frames shown a second.
        script: Whose keys and commands come before a person's.
        recording: What writes the session down; the session does not close it.
        goals: To be reached in the first world, which then waits for keys, so that every step is meant.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        panels: Sequence[Panel],
        start: Start,
        fps: float,
        *,
        script: Replay | None = None,
        recording: Recording | None = None,
        goals: Goals | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.panels = tuple(panels)
        self.fps = fps
        self.frames_shown = 0
        """Frames shown since the session began, over all its restarts."""
        self.history = History()
        self._start, self._script, self._recording, self._clock = start, script, recording, clock
        self._goals = goals
        self._keys = KeyBuffer(LAYOUT.images / fps)
        self._playback: Playback[Frame] = Playback(fps)
        self._lead = Lead(1 / fps)
        self._changed = threading.Condition()
        self._closing = False
        self._error: Exception | None = None
        self._activity: Activity | None = None
        self._worlds: list[World] = []
        self._beginning: Place | None = None
        self._rollouts: list[Rollout] = []
        self._newest: tuple[np.ndarray, ...] = ()
        """The last images made in this take."""
        self._take = 0
        """Counts the cuts: what was begun in an earlier take is dropped."""
        self._unseen = 0
        """Chunks begun in this take of which no frame has been shown."""
        self._prompt: str | None = None
        self._last: ChunkRecord | None = None
        self._key_to_frame: float | None = None
        self._thread = threading.Thread(target=self._work, name="worldplay-session", daemon=True)
        self._thread.start()

    # ---- what the owner says

    def press(self, key: str, at: float | None = None) -> None:
        """Say that a movement key went down, by the clock at the time `at`; by default just now."""
        with self._changed:
            self._keys.press(key, self._clock() if at is None else at)

    def release(self, key: str, at: float | None = None) -> None:
        """Say that a movement key went up, by the clock at the time `at`; by default just now."""
        with self._changed:
            self._keys.release(key, self._clock() if at is None else at)

    def release_all(self) -> None:
        """Say that all keys went up."""
        with self._changed:
            self._keys.release_all(self._clock())

    def pause(self, paused: bool) -> None:
        """Stop showing frames, or go on."""
        with self._changed:
            self._playback.paused = paused
            self._changed.notify_all()

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt, from the next chunk that is begun."""
        with self._changed:
            self._prompt = prompt

    def note(self, command: Command) -> None:
        """Write a command that the owner obeys itself into the recording."""
        with self._changed:
            if self._recording is not None:
                self._recording.command(self.frames_shown, command)

    def restart(self) -> bool:
        """Go back to the start; what was made is dropped. Return whether there was one yet.

        A goal that was reached, or could not be found, gives way to the next.
        """
        with self._changed:
            aim = self.aim
            done = self._cut(Command.RESTART, self._beginning)
            if done and self._goals is not None and aim is not None and (aim.reached or aim.picture is None):
                self._goals.next()
            return done

    def bookmark(self) -> bool:
        """Remember the beginning of the chunk on show; return whether there is one yet."""
        with self._changed:
            if self.history.here is None:
                return False
            self.note(Command.BOOKMARK)
            self.history.bookmark = self.history.here
            return True

    def go_back(self) -> bool:
        """Go back to the bookmark; what was made since is dropped. Return whether there is one."""
        with self._changed:
            return self._cut(Command.RETURN, self.history.bookmark)

    def rewind(self, chunk: int) -> bool:
        """Go back to the beginning of a chunk of the way walked; return whether it is kept: see `History`.

        Args:
            chunk: Its place in `history.records`.

        Raises:
            ValueError: The session is recorded or a script plays: neither can tell of it.
        """
        if self.only_forward:
            raise ValueError("a session that is recorded or follows a script goes only forward")
        with self._changed:
            return self._cut(None, self.history.before(chunk))

    @property
    def only_forward(self) -> bool:
        """Whether the session is recorded or follows a script, neither of which can tell of a `rewind`."""
        return self._recording is not None or self.scripted

    def _cut(self, command: Command | None, place: Place | None) -> bool:
        if place is None:
            return False
        if command is not None:
            self.note(command)
        self._playback.clear(self._clock())
        self._keys.forget_taps()
        self._take += 1
        self._unseen, self._prompt, self._error = 0, None, None
        self._stand_at(place)
        self._changed.notify_all()
        return True

    def _stand_at(self, place: Place) -> None:
        self.history.stand_at(place)
        self._rollouts, self._newest = place.checkpoint.fork(), place.checkpoint.pictures

    # ---- what the owner asks

    def advance(self) -> Update:
        """Return what is due now: a frame to show, a command of the script to obey, or neither."""
        with self._changed:
            now = self._clock()
            # A script is awaited until the worlds stand: a command has to find them.
            if self._script is not None and self.loaded:
                command = self._script.due(self.frames_shown)
                if command is not None:
                    return Update(command=command)
            frame = self._playback.advance(now)
            if frame is not None:
                self._show(frame, now)
            self._changed.notify_all()  # time has passed: a chunk may have to be begun
            return Update(frame)

    def _show(self, frame: Frame, now: float) -> None:
        self.frames_shown += 1
        self.history.show(frame)
        if frame.index == 0:
            self._unseen -= 1
            if frame.record.pressed_at is not None:
                self._key_to_frame = now - frame.record.pressed_at

    @property
    def aim(self) -> Aim | None:
        """How the walk on show stands to its goal; None without goals, and before a world has prepared its start."""
        if self._goals is None or not self.loaded:
            return None
        walked = self.history.whole
        return self._goals.aim(walked[-1].poses[0][-1] if walked else None, len(walked))

    @property
    def held(self) -> frozenset[str]:
        """The movement keys to light up: those that are down, or the script's."""
        if self.scripted:
            return frozenset(self.history.on_show.keys if self.history.on_show else ())
        return self._keys.held

    @property
    def scripted(self) -> bool:
        """Whether a script is being replayed."""
        return self._script is not None and self._script.running

    @property
    def awaits_keys(self) -> bool:
        """Whether the next chunk is begun when a key goes down, and not before."""
        return self._goals is not None and not self.scripted and self._keys.idle

    @property
    def error(self) -> Exception | None:
        """What the worlds failed with: they cannot be loaded, or a chunk cannot be made; `restart` goes on."""
        return self._error

    @property
    def loaded(self) -> bool:
        """Whether the worlds stand at their start."""
        return self.history.standing is not None

    @property
    def paused(self) -> bool:
        """Whether no frames are shown by request."""
        return self._playback.paused

    @property
    def activity(self) -> Activity | None:
        """What is being done at the moment, in words; None if the session's thread waits."""
        return self._activity

    def until_due(self) -> float | None:
        """Return the seconds until the next frame is due; None if there is none yet."""
        with self._changed:
            return self._playback.until_due(self._clock())

    def waiting(self) -> float:
        """Return for how many seconds the picture has been waiting for the world; 0 while it plays."""
        with self._changed:
            return self._playback.waiting(self._clock())

    def figures(self) -> Figures:
        """Return how well the session runs."""
        with self._changed:
            now, last, shown = self._clock(), self._last, self.history.on_show
            return Figures(
                played=self._playback.rate(now),
                made=last.frames / last.seconds if last and last.seconds else None,
                key_to_frame=self._key_to_frame,
                chunk=last.seconds if last else None,
                parts=dict(last.parts) if last else {},
                age=0.0 if shown is None else (shown.number + 1) / self._worlds[0].fps,
            )

    def close(self, timeout: float | None = None) -> bool:
        """Stop, after the piece of work at hand; return whether the thread has ended within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- the session's thread

    def _work(self) -> None:
        try:
            if not self._prepare():
                return
        except Exception as error:  # whatever a world raises is its owner's to show
            with self._changed:
                self._error, self._activity = error, None
            return
        while (begun := self._next_work()) is not None:
            take, work = begun
            try:
                work()
            except Exception as error:
                with self._changed:
                    if take == self._take:
                        self._error = error
            self._activity = None

    def _prepare(self) -> bool:
        """Load the worlds and begin their rollouts; return whether to go on."""
        for panel in self.panels:
            self._activity = Activity(f"loading {panel.name}", self._clock())
            self._worlds.append(panel.load())
            if self._closing:
                return False
        rollouts = []
        for panel, world in zip(self.panels, self._worlds, strict=True):
            self._activity = Activity("preparing the start", self._clock())
            rollouts.append(world.start(panel.start or self._start, panel.seed))
            if self._closing:
                return False
        if self._goals is not None:
            self._activity = Activity(LOOKING, self._clock())
            self._goals.draw(self._worlds[0], rollouts[0])
        with self._changed:
            self._beginning = Place(Checkpoint(tuple(rollouts), tuple(rollout.picture for rollout in rollouts)))
            self._stand_at(self._beginning)
            self._playback.clear(self._clock())
            self._activity = None
        return True

    def _next_work(self) -> tuple[int, Callable[[], None]] | None:
        """Wait until a goal is wanted, or a chunk has to be begun, and take its keys; None if the session ends."""
        with self._changed:
            while not self._closing:
                goals, begun = self._goals, self._beginning
                if goals is not None and goals.goal is None and begun is not None and self._error is None:
                    self._activity = Activity(LOOKING, self._clock())
                    return self._take, partial(goals.draw, self._worlds[0], begun.checkpoint.rollouts[0])
                wait = self._until_start()
                if wait == 0 and (asked := self._asked()) is not None:
                    chunk, pressed_at = asked
                    if self._recording is not None:
                        self._recording.chunk(chunk)
                    self._unseen += 1
                    what = "reading the new prompt" if chunk.prompt is not None else MAKING
                    self._activity = Activity(what, self._clock())
                    job = ChunkJob(
                        self._worlds,
                        self._rollouts,
                        [label_of_keys(keys) for keys in chunk.keys],
                        chunk.prompt,
                        ChunkRecord(chunk.keys, pressed_at),
                        self._newest,
                        self._clock,
                    )
                    return self._take, partial(self._make, self._take, job)
                # The clock given may be no clock of this machine: `advance` wakes this up as well.
                self._changed.wait(wait or None)
        return None

    def _until_start(self) -> float | None:
        """Return the seconds until the next chunk may have to be begun; None for nobody knows."""
        if self._error is not None or self._unseen > 0:
            return None
        if self._goals is not None and self._goals.over(self._rollouts[0]):
            if self._script is not None:
                self._script.cut_short(self.frames_shown + len(self._playback))
            return None
        if self.scripted:
            return 0
        if self.awaits_keys:
            return None
        left = self._playback.seconds_left(self._clock())
        return max(0.0, left - self._lead.seconds) if left < float("inf") else None

    def _asked(self) -> tuple[ChunkKeys, float | None] | None:
        """Take what the next chunk is made from, and when its keys were pressed; None if it is not known yet."""
        latents = self._rollouts[0].world.layout.latents
        if self._script is not None and self._script.running:
            scripted = self._script.next_chunk(self.frames_shown + len(self._playback))
            return None if scripted is None else (scripted.over(latents), None)
        first = self._rollouts[0].chunks == 0
        taken = self._keys.take(latents - first)
        keys = [()] * first + taken.keys
        prompt, self._prompt = self._prompt, None
        return ChunkKeys(tuple(keys), prompt), taken.pressed_at

    def _make(self, take: int, job: ChunkJob) -> None:
        """Make a chunk and put its frames up for showing as they come, unless it is not wanted any more."""
        arrivals: list[tuple[float, int]] = []
        with job:
            for frames in job:
                with self._changed:
                    if self._closing or take != self._take:
                        return
                    arrivals.append((self._clock() - job.began, len(frames)))
                    self._playback.put(frames)
                    self._activity = Activity(MAKING, job.began)
        with self._changed:
            if take == self._take:
                self._lead.observe(arrivals)
                self._last, self._newest = job.record, job.pictures
