"""Films and contact sheets hold what was put into them, and appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import read_film
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worldplay_env.media.contact_sheet import ContactSheet, save_picture, tile
from worldplay_env.media.video import FilmError, FilmWriter


def ramps(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Return smooth frames that get bluer: uint8 [count, height, width, 3]."""
    rows, columns = np.mgrid[:height, :width]
    frames = [
        np.stack([columns * 5, rows * 7, np.full_like(rows, 200 * index // count)], -1) for index in range(count)
    ]
    return np.stack(frames).astype(np.uint8)


def write(path: Path, frames: np.ndarray) -> None:
    with FilmWriter(path) as film:
        film.write(frames)


def begin_and_end_with(error: BaseException, path: Path) -> FilmWriter:
    """Write five frames of a film, in whose block an error is then raised; return the film."""
    film = FilmWriter(path)

    def write_and_raise() -> None:
        with film:
            film.write(ramps(5))
            raise error

    with pytest.raises(type(error)):
        write_and_raise()
    return film


@pytest.mark.parametrize("size", [(32, 48), (33, 48), (32, 49), (33, 49), (1, 1)])
def test_a_film_shows_its_frames_at_its_rate_whatever_their_size(size: tuple[int, int], tmp_path: Path) -> None:
    height, width = size
    frames = ramps(20, height, width)

    with FilmWriter(tmp_path / "new folder" / "a.mp4", fps=12) as film:
        film.write(frames[0])
        film.write(frames[1:])
        film.write(frames[:0])

    assert film.frames == 20
    shown = read_film(film.path)
    assert shown.fps == 12
    assert "yuv420p(tv, bt709" in shown.description
    assert shown.frames.shape == (20, height + height % 2, width + width % 2, 3)
    difference = np.abs(shown.frames[:, :height, :width].astype(int) - frames)
    assert difference.mean() < 3
    assert [path.name for path in film.path.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("size", [(32, 48), (33, 49)])
@pytest.mark.parametrize("suffix", [".gif", ".webp", ".WebP"])
def test_other_formats_show_the_frames_too(suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    frames = ramps(20, *size)
    with FilmWriter(tmp_path / f"a{suffix}", fps=10) as film:
        film.write(frames)
    with Image.open(film.path) as shown:
        assert (shown.size, getattr(shown, "n_frames", 1)) == (size[::-1], 20)
        for place in (0, 10, 19):
            shown.seek(place)
            assert np.abs(np.asarray(shown.convert("RGB")).astype(int) - frames[place]).mean() < 8
            assert shown.info["duration"] == 100
    assert list(tmp_path.iterdir()) == [film.path]


@pytest.mark.parametrize(("scale", "size"), [(1, (34, 48)), (2, (66, 96)), (3, (102, 144)), (None, (132, 192))])
def test_a_film_is_enlarged(scale: int | None, size: tuple[int, int], tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "a.mp4", scale=scale) as film:
        film.write(ramps(3, 33, 48))
    assert read_film(film.path).frames.shape[1:3] == size
    assert film.scale == (scale or 4)


def test_large_films_are_not_enlarged_unless_asked_to(tmp_path: Path) -> None:
    for rows, scale in ((255, 4), (256, 1)):
        with FilmWriter(tmp_path / "a.mp4", scale=None) as film:
            film.write(ramps(1, rows, 48))
        assert film.scale == scale


def test_pixels_become_squares_or_are_blended(tmp_path: Path) -> None:
    halves = np.zeros((3, 16, 16, 3), np.uint8)
    halves[:, :, 8:] = 255
    shown = {}
    for resample in ("nearest", "lanczos"):
        with FilmWriter(tmp_path / "a.mp4", scale=8, resample=resample) as film:  # type: ignore[arg-type]
            film.write(halves)
        shown[resample] = read_film(film.path).frames[0, 64, :, 0]
    assert (np.minimum(shown["nearest"], 255 - shown["nearest"]) < 12).all()
    assert (np.minimum(shown["lanczos"], 255 - shown["lanczos"]) > 40).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "1 to 16, got 0"),
        ({"scale": True}, "True"),
        ({"scale": 1.5}, "1.5"),
        ({"resample": "cubic"}, "cubic"),
    ],
)
def test_other_enlargements_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        FilmWriter(tmp_path / "a.mp4", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_older_film_is_replaced_when_the_new_one_is_complete_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, ramps(3))
    with FilmWriter(path) as film:
        film.write(ramps(5))
        assert len(read_film(path).frames) == 3
    assert len(read_film(path).frames) == 5


def test_an_error_leaves_the_older_film_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, ramps(3))
    film = begin_and_end_with(OSError("no more"), path)
    assert len(read_film(path).frames) == 3
    assert list(tmp_path.iterdir()) == [path]
    film.close()
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_keeps_the_film_so_far_beside_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, ramps(3))
    film = begin_and_end_with(KeyboardInterrupt(), path)
    assert len(read_film(path).frames) == 3
    assert len(read_film(film.partial).frames) == 5


def test_films_of_one_name_that_are_written_at_once_are_each_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    (tmp_path / "a.partial.mp4").symlink_to(kept)
    films = [FilmWriter(path), FilmWriter(path)]
    for _ in range(4):
        for film, frames in zip(films, (ramps(3), ramps(5)), strict=True):
            film.write(frames)
    for film, count in zip(films, (12, 20), strict=True):
        film.close()
        assert len(read_film(path).frames) == count
    assert kept.read_text() == "mine"


def _closed(film: FilmWriter) -> None:
    film.close()
    film.close()


@pytest.mark.parametrize("end", [_closed, FilmWriter.interrupt, FilmWriter.discard])
def test_a_film_without_frames_leaves_nothing(end: Callable[[FilmWriter], None], tmp_path: Path) -> None:
    film = FilmWriter(tmp_path / "a.mp4")
    end(film)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        film.write(ramps(1))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (ramps(1).astype(np.float32), "float32"),
        (ramps(1)[..., 0], r"\(1, 32, 48\)"),
        (ramps(1)[:, :0], r"\(1, 0, 48, 3\)"),
        (ramps(1, 32, 50), r"\(32, 48\).*\(32, 50\)"),
    ],
)
def test_bad_frames_are_refused_and_the_film_goes_on(frames: np.ndarray, message: str, tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "a.mp4") as film:
        film.write(ramps(2))
        with pytest.raises(ValueError, match=message):
            film.write(frames)
        film.write(ramps(2))
    assert len(read_film(film.path).frames) == 4


@pytest.mark.parametrize(
    ("name", "fps", "error"),
    [
        ("a.avi", 16, ValueError),
        ("a.mp4", 0, ValueError),
        ("a.mp4", float("nan"), ValueError),
        ("folder.mp4", 16, OSError),
        ("file/a.mp4", 16, OSError),
    ],
)
def test_a_film_that_cannot_be_written_is_refused_before_the_first_frame(
    name: str, fps: float, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(error):
        FilmWriter(tmp_path / name, fps)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.mp4", "file"}


def test_a_failing_encoder_is_reported_with_its_own_message(tmp_path: Path) -> None:
    film = FilmWriter(tmp_path / "folder" / "a.mp4")
    shutil.rmtree(film.path.parent)

    def finish() -> None:
        for _ in range(20):
            film.write(ramps(16))
        film.close()

    with pytest.raises(FilmError, match="No such file"):
        finish()
    film.discard()


def test_an_encoder_that_dies_leaves_a_film_that_plays(tmp_path: Path) -> None:
    film = FilmWriter(tmp_path / "a.mp4")
    frames = np.zeros((300, 96, 160, 3), dtype=np.uint8)
    film.write(frames)
    assert film._encoder is not None
    film._encoder._process.kill()
    film._encoder._process.wait()
    with pytest.raises(FilmError):
        film.write(frames)
    assert len(read_film(film.partial).frames) > 100
    film.discard()
    assert film.partial.exists()


def levels_of(sheet: Image.Image, tiles: int, side: int) -> list[int]:
    """Return the grey level of each tile of a sheet of `tiles` square tiles."""
    columns = int(np.ceil(np.sqrt(tiles)))
    rows = int(np.ceil(tiles / columns))
    cell = (sheet.width - 6) // columns, (sheet.height - 6) // rows
    places = [(6 + index % columns * cell[0], 6 + index // columns * cell[1]) for index in range(tiles)]
    pixels = np.asarray(sheet)
    return [int(pixels[y + side // 2, x + side // 2, 0]) for x, y in places]


@given(count=st.integers(1, 256), piece=st.integers(1, 16))
def test_a_contact_sheet_goes_evenly_from_the_first_frame_to_the_last(count: int, piece: int) -> None:
    film = np.zeros((count, 8, 8, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    sheet = ContactSheet(tiles=9, tile_width=8)
    for first in range(0, count, piece):
        sheet.add(film[first : first + piece])

    levels = levels_of(sheet.image(), min(9, count), 8)
    assert levels[0] == 0
    assert levels[-1] == count - 1
    assert np.abs(np.array(levels) - np.linspace(0, count - 1, len(levels))).max() <= max(1, count / 32)


def test_a_contact_sheet_does_not_keep_the_callers_buffer() -> None:
    sheet, buffer = ContactSheet(tiles=2, tile_width=8), np.full((1, 8, 8, 3), 50, np.uint8)
    sheet.add(buffer)
    sheet.add(buffer)
    buffer[:] = 200
    assert levels_of(sheet.image(), 2, 8) == [50, 50]


def test_captions_are_drawn_below_their_tiles() -> None:
    frame = np.zeros((40, 80, 3), np.uint8)
    blank, written = (np.asarray(tile([frame, frame], ["", caption], columns=2)) for caption in ("", "12.34 s"))
    differing = np.argwhere((blank != written).any(axis=-1))
    assert differing[:, 0].min() > 160  # 320 pixels wide, so 160 high
    assert differing[:, 1].min() > 320


def test_a_contact_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        ContactSheet().save(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_saved_in_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.png"
    for grey in (10, 20):
        save_picture(Image.new("RGB", (4, 4), (grey,) * 3), path)
    with Image.open(path) as picture:
        assert picture.getpixel((0, 0)) == (20, 20, 20)
    assert list(path.parent.iterdir()) == [path]
