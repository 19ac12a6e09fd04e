"""Films and pictures: every frame once, whole files, and failures that do not stop the session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from films import read_film
from PIL import Image

from worldplay_env.media.video import FilmError, FilmWriter
from worldplay_env.play.recorder import Recorder, side_by_side


def frames(count: int) -> list[tuple[np.ndarray, ...]]:
    """Return grey frames that get lighter."""
    return [(np.full((32, 48, 3), 8 * number, dtype=np.uint8),) for number in range(count)]


def notices(recorder: Recorder) -> list[str]:
    found = []
    while (said := recorder.notice()) is not None:
        found.append(said)
    return found


def test_a_film_holds_the_frames_between_its_beginning_and_its_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "new folder", 16)
    for number, frame in enumerate(frames(20)):
        if number in (5, 15):
            recorder.toggle_film()
        recorder.add(frame)
    recorder.close()
    path = tmp_path / "new folder" / "film-001.mp4"
    film = read_film(path)
    assert (len(film.frames), film.fps) == (10, 16)
    np.testing.assert_allclose(film.frames.mean(axis=(1, 2, 3)), 8 * np.arange(5, 15), atol=2)
    assert recorder.written == [path]
    assert notices(recorder) == [f"filming to {path}", f"saved {path} (0.6 s)"]


def test_closing_ends_the_film(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 16)
    recorder.toggle_film()
    for frame in frames(3):
        recorder.add(frame)
    assert recorder.filming == 3 / 16
    recorder.close()
    recorder.close()
    assert len(read_film(tmp_path / "film-001.mp4").frames) == 3
    assert recorder.filming is None


def test_names_are_numbered_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "picture-001.png").write_text("mine")
    recorder = Recorder(tmp_path, 16)
    for frame in frames(2):
        recorder.take_picture(frame)
    recorder.close()
    assert (tmp_path / "picture-001.png").read_text() == "mine"
    for number, frame in enumerate(frames(2), start=2):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"picture-00{number}.png")), frame[0])


def test_a_film_without_a_frame_leaves_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 16)
    recorder.toggle_film()
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file", 16)
    recorder.toggle_film()
    recorder.take_picture(frames(1)[0])
    recorder.close()
    assert recorder.filming is None
    assert len(recorder.failures) == 2
    assert notices(recorder) == recorder.failures
    assert "cannot film to" in recorder.failures[0]


def test_an_encoder_that_breaks_off_is_said_once_and_another_film_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FilmWriter, images: np.ndarray) -> None:
        raise FilmError("the disk is full")

    recorder = Recorder(tmp_path, 16)
    with monkeypatch.context() as broken:
        broken.setattr(FilmWriter, "write", fail)
        recorder.toggle_film()
        for frame in frames(5):
            recorder.add(frame)
        recorder.close()
    assert recorder.failures == ["the disk is full"]
    recorder.toggle_film()
    recorder.add(frames(1)[0])
    recorder.close()
    assert len(recorder.written) == 1


def test_lanes_are_filmed_beside_each_other_at_one_height() -> None:
    left, right = np.zeros((40, 60, 3), np.uint8), np.full((80, 100, 3), 200, np.uint8)
    both = side_by_side((left, right))
    assert both.shape == (40, 60 + 50, 3)
    assert (both[:, :60] == 0).all()
    assert (both[:, 60:] == 200).all()
