"""Making one chunk in every panel, piece by piece, with what a screen wants to know about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from worldplay_env.worlds.base import (
    Chunk,
    Rollout,
    Start,
    World,
)
from worldplay_env.worlds.follow import next_control
from worldplay_env.worlds.transfer import fetch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Panel:
    """One of the worlds that are played side by side.

    Attributes:
        name: What it is called on the screen.
        load: Returns the world; called in the session's thread.
        seed: Of its rollout.
        start: Where it begins; None for where the session does.
        uses_prompt: Whether it follows a new prompt.
    """

    name: str
    load: Callable[[], World]
    seed: int = 0
    start: Start | None = None
    uses_prompt: bool = True


@dataclass(eq=False)
class ChunkRecord:
    """What one chunk was made from and how; poses and memory are those of each panel.

    Attributes:
        keys: The keys of its four latent frames.
        pressed_at: When the earliest key that it answers went down; None if it answers none.
        poses: float64 [4, 4, 4] camera-to-world matrices: where the camera was sent, and, once the chunk is made,
            where it truly went.
        memory: The past latent frames it was made from; none for a world that does not tell.
        frames: Images made.
        seconds: That making it took.
        parts: Of those, by part.
        before: The moment before it, for as long as a session may go back there.
    """

    keys: tuple[tuple[str, ...], ...]
    pressed_at: float | None = None
    poses: list[np.ndarray] = field(default_factory=list)
    memory: list[np.ndarray] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    before: Checkpoint | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A place to go on from: the rollout of each panel, which nobody steps, and what it shows."""

    rollouts: tuple[Rollout, ...]
    pictures: tuple[np.ndarray, ...]

    def fork(self) -> list[Rollout]:
        """Return rollouts that go on from here."""
        return [rollout.fork() for rollout in self.rollouts]


@dataclass(frozen=True)
class Frame:
    """One image of each panel.

    Attributes:
        pictures: uint8 [height, width, 3] for each panel.
        index: Its place in its chunk.
        number: Its place in the rollout.
        latent: The latent frame of the chunk that it belongs to, 0..3.
        record: Its chunk.
        before: The moment before its chunk.
    """

    pictures: tuple[np.ndarray, ...]
    index: int
    number: int
    latent: int
    record: ChunkRecord
    before: Checkpoint

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that led to it."""
        return self.record.keys[self.latent]


class ChunkJob:
    """One chunk of every panel on its way; iterating makes it, and gives the frames of a latent frame at a time.

    As a context manager it abandons what is not finished: a rollout whose chunk is broken off stays as it was.

    Args:
        worlds: Of each panel.
        rollouts: Of each panel; they go one chunk on.
        labels: The actions of the four latent frames.
        prompt: The new prompt, or None.
        record: Filled in.
        pictures: What is shown before the chunk, for each panel.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        worlds: Sequence[World],
        rollouts: Sequence[Rollout],
        labels: Sequence[int],
        prompt: str | None,
        record: ChunkRecord,
        pictures: tuple[np.ndarray, ...],
        clock: Callable[[], float],
    ) -> None:
        self.began = clock()
        self.record = record
        self._worlds, self._rollouts, self._labels, self._prompt = worlds, rollouts, labels, prompt
        self._pictures, self._clock = pictures, clock
        self._streams: list[Generator[Tensor, None, Chunk]] = []
        self._seconds = [0.0 for _ in worlds]

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        """The newest images made; before there are any, what is shown before the chunk."""
        return self._pictures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.close()

    def __iter__(self) -> Iterator[list[Frame]]:
        record, number = self.record, self._worlds[0].layout.images_before(self._rollouts[0].chunks)
        if self._prompt is not None:
            for rollout in self._rollouts:
                rollout.set_prompt(self._prompt)
        before = Checkpoint(tuple(rollout.fork() for rollout in self._rollouts), self._pictures)
        for world, rollout in zip(self._worlds, self._rollouts, strict=True):
            control = next_control(rollout, self._labels)
            record.poses.append(control.poses)
            self._streams.append(world.stream(rollout, control))
        latents = self._worlds[0].layout.latents
        for latent in range(latents):
            pieces = [self._next_piece(panel) for panel in range(len(self._streams))]
            frames = [
                Frame(pictures, record.frames + place, number + record.frames + place, latent, record, before)
                for place, pictures in enumerate(zip(*pieces, strict=True))
            ]
            record.frames += len(frames)
            self._pictures = frames[-1].pictures
            if latent == latents - 1:
                self._finish()
            yield frames

    def _next_piece(self, panel: int) -> np.ndarray:
        """Return the next frames of a panel, uint8 [1 or 4, height, width, 3]."""
        began = time.perf_counter()
        frames = fetch(next(self._streams[panel]))
        self._seconds[panel] += time.perf_counter() - began
        return frames

    def _finish(self) -> None:
        """Let the streams commit their chunks, and note what they tell of them."""
        record, memory = self.record, []
        for panel, stream in enumerate(self._streams):
            began = time.perf_counter()
            chunk = _result(stream)
            self._seconds[panel] += time.perf_counter() - began
            memory.append(chunk.memory)
            for part, seconds in _parts(chunk, self._seconds[panel]).items():
                record.parts[part] = record.parts.get(part, 0.0) + seconds
            record.poses[panel] = chunk.poses  # of the camera itself, which something may have stopped
        record.memory, record.seconds = memory, self._clock() - self.began


def _result(stream: Generator[Tensor, None, Chunk]) -> Chunk:
    """Take the end of a stream; return its chunk."""
    try:
        next(stream)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a stream gave more latent frames than its world's chunks have")


def _parts(chunk: Chunk, seconds: float) -> dict[str, float]:
    """Split the seconds that a stream took by what its chunk tells; the rest went into decoding."""
    timings = chunk.timings
    denoise = sum(value for part, value in timings.items() if part.startswith("denoise"))
    if not denoise:
        return {}
    prefill = timings.get("prefill", 0.0) + timings.get("select", 0.0)
    return {"prefill": prefill, "denoise": denoise, "decode": max(0.0, seconds - prefill - denoise)}
