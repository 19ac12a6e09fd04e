"""Sessions on a clock that stands still unless a test moves it, over worlds that wait for a test's leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch

from worldplay_env.play.chunk_job import Frame
from worldplay_env.play.session import Panel, Session
from worldplay_env.worlds.base import Chunk, Control, Start
from worldplay_env.worlds.testcard import Testcard

SIZE = (32, 48)
FPS = 16
PATIENCE = 20.0
"""Seconds after which a test gives up on a thread."""


class FakeClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class GatedTestcard(Testcard):
    """A test picture that asks for leave before each piece of a chunk."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.leave = threading.Semaphore(0)
        self.begun = 0
        self.asked = 0
        """How often it asked."""
        self.failure: Exception | None = None

    def stream(self, rollout: Any, control: Control) -> Generator[torch.Tensor, None, Chunk]:
        self.begun += 1
        pieces = super().stream(rollout, control)
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                return end.value
            self.asked += 1
            assert self.leave.acquire(timeout=PATIENCE)
            if self.failure is not None:
                raise self.failure
            yield piece


def picture() -> np.ndarray:
    """Return a picture that looks different from every pose."""
    return np.random.default_rng(5).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def begin(clock: FakeClock, load: Callable[[], Any] | None = None, panels: int = 1, **options: Any) -> Session:
    """Begin a session over test pictures and wait until it is loaded."""
    session = Session(
        [Panel(f"panel {seed}", load or (lambda: Testcard(SIZE)), seed) for seed in range(panels)],
        Start(picture()),
        FPS,
        clock=clock,
        **options,
    )
    until(lambda: session.loaded or session.error is not None)
    return session


def until(holds: Callable[[], Any]) -> None:
    """Wait for another thread to bring something about."""
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.0005)


def show(session: Session, clock: FakeClock, count: int) -> list[Frame]:
    """Return the next frames as they are shown; the clock moves from one that is due to the next."""
    frames: list[Frame] = []

    def another() -> bool:
        clock.now += session.until_due() or 0.0
        update = session.advance()
        if update.frame is not None:
            frames.append(update.frame)
        return len(frames) == count

    until(another)
    return frames


def images(frames: list[Frame]) -> np.ndarray:
    """Return the first panel's images, uint8 [N, height, width, 3]."""
    return np.stack([frame.pictures[0] for frame in frames])
