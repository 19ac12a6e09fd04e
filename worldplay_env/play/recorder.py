"""Films and pictures of a session, written in a thread of their own, so that neither disk nor encoder holds it up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from worldplay_env.cli import in_words
from worldplay_env.media.contact_sheet import save_picture
from worldplay_env.media.video import FilmError, FilmWriter


class Recorder:
    """Writes what is shown, as the world made it: without what is drawn over it, every frame once.

    Args:
        folder: Where films and pictures go; made when there is something to put there.
        fps: Frames a second of the films.
        scale: How many times they are enlarged; see `FilmWriter`.
    """

    def __init__(self, folder: Path, fps: float, scale: int | None = 1) -> None:
        self.folder = folder
        self.failures: list[str] = []
        """What could not be written, for the end of the session."""
        self.written: list[Path] = []
        """Films and pictures that are complete."""
        self._fps = fps
        self._scale = scale
        self._film: FilmWriter | None = None
        self._frames = 0
        self._names: set[Path] = set()
        self._jobs: queue.Queue[Callable[[], str | None] | None] = queue.Queue()
        self._notices: queue.Queue[str] = queue.Queue()
        self._thread: threading.Thread | None = None

    @property
    def filming(self) -> float | None:
        """The seconds of film so far; None if none is being made."""
        return None if self._film is None else self._frames / self._fps

    def toggle_film(self) -> None:
        """Begin a film with the next frame, or end the one that is being made."""
        if self._film is not None:
            self._end_film()
            return
        path = self._free("film", ".mp4")
        try:
            self._film, self._frames = FilmWriter(path, self._fps, scale=self._scale), 0
        except OSError as error:
            self._fail(f"cannot film to {path}: {in_words(error)}")
            return
        self._notices.put(f"filming to {path}")

    def add(self, pictures: tuple[np.ndarray, ...]) -> None:
        """Take the frame that is shown, uint8 [height, width, 3] for each panel."""
        if self._film is not None:
            film = self._film
            self._frames += 1
            self._do(lambda: self._write(film, pictures))

    def take_picture(self, pictures: tuple[np.ndarray, ...]) -> None:
        """Save the frame on show."""
        path = self._free("picture", ".png")

        def save() -> str:
            save_picture(Image.fromarray(side_by_side(pictures)), path)
            self.written.append(path)
            return f"saved {path}"

        self._do(save)

    def notice(self) -> str | None:
        """Return what has happened since the last time, for a person to read; None if nothing has."""
        try:
            return self._notices.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the film that is being made, and wait until everything is written; twice is fine."""
        if self._film is not None:
            self._end_film()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _end_film(self) -> None:
        film, self._film = self._film, None
        assert film is not None

        def finish() -> str | None:
            film.close()
            if not film.frames:
                return None
            self.written.append(film.path)
            return f"saved {film.path} ({film.frames / film.fps:.1f} s)"

        self._do(finish)

    def _write(self, film: FilmWriter, pictures: tuple[np.ndarray, ...]) -> None:
        try:
            film.write(side_by_side(pictures))
        except Exception:
            if self._film is film:
                self._film = None
            raise

    def _do(self, job: Callable[[], str | None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="worldplay-recorder")
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        broken = False
        while (job := self._jobs.get()) is not None:
            try:
                said = job()
            except Exception as error:  # a full disk, an encoder that broke off: the session goes on
                if not broken:  # of a film, the first failure tells it all
                    said = in_words(error)
                    self._fail(said if isinstance(error, FilmError) else f"writing failed: {said}")
                broken = True
                continue
            broken = False
            if said is not None:
                self._notices.put(said)

    def _fail(self, said: str) -> None:
        self.failures.append(said)
        self._notices.put(said)

    def _free(self, name: str, suffix: str) -> Path:
        """Return the first numbered name that nothing has."""
        number = 1
        while (path := self.folder / f"{name}-{number:03d}{suffix}") in self._names or path.exists():
            number += 1
        self._names.add(path)
        return path


def side_by_side(pictures: tuple[np.ndarray, ...]) -> np.ndarray:
    """Put pictures, uint8 [height, width, 3], next to each other, as high as the first."""
    height = pictures[0].shape[0]
    scaled = [
        picture
        if picture.shape[0] == height
        else np.asarray(Image.fromarray(picture).resize((picture.shape[1] * height // picture.shape[0], height)))
        for picture in pictures
    ]
    return np.concatenate(scaled, axis=1)
