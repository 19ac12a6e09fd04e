"""Films of one env's episodes, one after another, as `RecordChunks` makes them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from worldplay_env.media.video import FilmWriter
from worldplay_env.worlds.transfer import fetch

EpisodeTrigger = Callable[[int], bool]
"""Says of an episode, by its number from 0, whether it is filmed."""


def _capped_cubic(episode: int) -> bool:
    """Say whether an episode's number is a cube below 1000, or else a multiple of 1000: `RecordVideo`'s schedule.

    Gymnasium's own lies in a module that cannot be imported without moviepy.
    """
    return round(episode ** (1 / 3)) ** 3 == episode if episode < 1000 else episode % 1000 == 0


class EpisodeFilms:
    """The films of one env's episodes, one after another."""

    def __init__(self, folder: str | Path, prefix: str, trigger: EpisodeTrigger | None, fps: float) -> None:
        self._folder = Path(folder)
        self._prefix = prefix
        self._trigger = trigger or _capped_cubic
        self._fps = fps
        self._episode = -1
        self._film: FilmWriter | None = None
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def filming(self) -> bool:
        """Whether the running episode is filmed."""
        return self._film is not None

    def begin(self) -> None:
        """Complete the film that is open, and open the next episode's if that is to be filmed."""
        self.finish()
        self._episode += 1
        if self._trigger(self._episode):
            self._film = FilmWriter(self._folder / f"{self._prefix}-episode-{self._episode}.mp4", self._fps)
            # A program that ends without close() leaves a complete film, too.
            self._closing = weakref.finalize(self, self._film.close)

    def add(self, frames: Any) -> None:
        """Film frames, [N, height, width, 3] or [N, 3, height, width], on any device, if the episode is filmed."""
        if self._film is None:
            return
        try:
            self._film.write(channel_last(fetch(frames) if hasattr(frames, "cpu") else frames))
        except BaseException:
            self.finish()
            raise

    def finish(self) -> None:
        """Complete the film that is open, if one is."""
        if self._film is not None:
            self._film = None
            self._closing()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the film that is open to the original."""
        return {name: value for name, value in self.__dict__.items() if name != "_closing"} | {"_film": None}


def channel_last(frames: np.ndarray) -> np.ndarray:
    """Return frames [..., H, W, 3] or [..., 3, H, W] as [..., H, W, 3]."""
    return frames if frames.shape[-1] == 3 else np.moveaxis(frames, -3, -1)
