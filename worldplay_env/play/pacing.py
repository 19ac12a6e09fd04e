"""Pacing: which frame is due when, and when the next chunk has to be begun so that the picture need not wait.

Nothing here reads a clock, takes a lock or starts a thread: every time is given, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

LATE = 0.2
"""Periods: a frame shown later than this after it was due moves the beat, so that the next is not shown too soon."""
REMEMBERED = 12
"""Chunks that the lead is estimated from."""
MARGIN = 0.06
"""Seconds that chunks are begun earlier than those before needed: what another program may take from this one."""
RATE_SECONDS = 2.0
"""Over how long frames a second are counted."""

FrameT = TypeVar("FrameT")


class Playback(Generic[FrameT]):
    """Frames waiting to be shown at a steady rate.

    When there are none, the picture waits, and goes on from where it was: no frame is left out, none is hurried.

    Args:
        fps: Frames a second.
    """

    def __init__(self, fps: float) -> None:
        self.period = 1 / fps
        self.paused = False
        self._queue: deque[FrameT] = deque()
        self._due: float | None = None
        """When the next frame should be shown; None for as soon as there is one."""
        self._cleared_at: float | None = None
        self._shown: deque[float] = deque(maxlen=max(2, round(RATE_SECONDS * fps) + 1))

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, frames: Iterable[FrameT]) -> None:
        """Append frames."""
        self._queue.extend(frames)

    def clear(self, now: float) -> None:
        """Drop every frame; the next one put is due at once, and waited for from now on."""
        self._queue.clear()
        self._due, self._cleared_at = None, now

    def advance(self, now: float) -> FrameT | None:
        """Return the frame to show from now on, or None if the one on show stays."""
        if self.paused or not self._queue or (self._due is not None and now < self._due):
            return None
        beat = now if self._due is None or now - self._due > LATE * self.period else self._due
        self._due = beat + self.period
        self._shown.append(now)
        return self._queue.popleft()

    def until_due(self, now: float) -> float | None:
        """Return the seconds until `advance` has a frame to give; None if it has to get one, or is paused."""
        if self.paused or not self._queue:
            return None
        return 0.0 if self._due is None else max(0.0, self._due - now)

    def waiting(self, now: float) -> float:
        """Return for how many seconds the picture has been waiting for a frame; 0 while it is not."""
        since = self._cleared_at if self._due is None else self._due
        return 0.0 if self.paused or self._queue or since is None else max(0.0, now - since)

    def seconds_left(self, now: float) -> float:
        """Return how long the frames at hand last until the picture has to wait; infinite while paused."""
        if self.paused:
            return float("inf")
        until_next = 0.0 if self._due is None else max(0.0, self._due - now)
        return until_next + len(self._queue) * self.period

    def rate(self, now: float) -> float:
        """Return the frames a second that have been shown of late."""
        recent = [shown for shown in self._shown if now - shown <= RATE_SECONDS]
        if len(recent) < 2:
            return 0.0
        # A picture that waits slows the rate down; between two beats it does not.
        last = now if now - recent[-1] > 2 * self.period else recent[-1]
        return (len(recent) - 1) / (last - recent[0])


class Lead:
    """Learns how long before the frames at hand run out a chunk has to be begun: late, to follow the keys closely.

    Args:
        period: Seconds that a frame is shown.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._needed: deque[float] = deque(maxlen=REMEMBERED)
        self._warm = False

    def observe(self, arrivals: Sequence[tuple[float, int]]) -> None:
        """Learn from a chunk.

        Args:
            arrivals: For each of its parts, the seconds after its beginning at which it was there, and its number of
                frames.
        """
        needed, frames = 0.0, 0
        for seconds, count in arrivals:
            needed = max(needed, seconds - frames * self._period)
            frames += count
        if not self._warm and self._needed:  # the very first chunk warms everything up: better known by the second
            self._needed.clear()
            self._warm = True
        self._needed.append(needed)

    @property
    def seconds(self) -> float:
        """How long before the frames run out to begin; infinite before the first chunk."""
        return 1.25 * max(self._needed) + MARGIN + self._period if self._needed else float("inf")
