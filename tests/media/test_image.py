"""Pictures of every kind are read as what they show, fitted by the rule, and refused for good reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import BAD_SOURCES, PICTURE, smooth
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worldplay_env.media.image import MAX_PIXELS, ImageError, fit_image, read_image, resize_frames


@pytest.mark.parametrize("name", ["picture.png", "picture.bmp", "picture.webp", "picture.gif", "picture.jpg"])
def test_files_of_the_five_formats_are_read(tmp_path: Path, name: str) -> None:
    lossless = {"lossless": True} if name.endswith("webp") else {"quality": 95} if name.endswith("jpg") else {}
    picture = smooth(48, 64) if name.endswith(("jpg", "gif")) else PICTURE
    Image.fromarray(picture).save(tmp_path / name, **lossless)
    read = read_image(str(tmp_path / name))
    assert read.dtype == np.uint8
    assert read.shape == picture.shape
    limit = {"picture.jpg": 4.0, "picture.gif": 16.0}.get(name, 0.0)  # mean grey levels: lossy, 256 colours
    assert np.abs(read.astype(int) - picture).mean() <= limit


def test_a_path_object_a_pil_image_and_an_array_are_the_same(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    for source in (tmp_path / "picture.png", Image.fromarray(PICTURE), PICTURE, np.asfortranarray(PICTURE)):
        np.testing.assert_array_equal(read_image(source), PICTURE)


@pytest.mark.parametrize("save", ["gif", "webp"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, save: str) -> None:
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    red.save(tmp_path / f"moving.{save}", save_all=True, append_images=[blue], lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"moving.{save}"), np.asarray(red))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_s_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    # What a camera stores for each EXIF orientation of a picture that shows `upright`.
    upright = smooth(24, 32)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), upright)


GREY = PICTURE[:, :, 0]
ALPHA = np.dstack([PICTURE, np.full((20, 30), 51, dtype=np.uint8)])  # a fifth of the way from black


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (GREY, np.repeat(GREY[:, :, None], 3, axis=2)),
        (GREY[:, :, None], np.repeat(GREY[:, :, None], 3, axis=2)),
        (ALPHA, np.round(PICTURE / 5)),
        (Image.fromarray(GREY), np.repeat(GREY[:, :, None], 3, axis=2)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), np.repeat(GREY[:, :, None], 3, axis=2)),
        (Image.fromarray(GREY.astype(np.int32) * 257), np.repeat(GREY[:, :, None], 3, axis=2)),
        (Image.fromarray(ALPHA).convert("LA").convert("RGBA"), None),
        (Image.fromarray(PICTURE // 64 * 64).quantize(64), PICTURE // 64 * 64),
        (Image.fromarray(GREY > 127), np.repeat(np.where(GREY > 127, 255, 0)[:, :, None], 3, axis=2)),
        (Image.fromarray(PICTURE).convert("CMYK"), PICTURE),
    ],
    ids=[
        "grey array",
        "one channel",
        "transparent",
        "grey",
        "16 bits",
        "32 bits",
        "grey alpha",
        "palette",
        "1",
        "cmyk",
    ],
)
def test_every_kind_of_pixel_becomes_rgb(source: np.ndarray | Image.Image, expected: np.ndarray | None) -> None:
    read = read_image(source)
    assert (read.dtype, read.shape) == (np.uint8, PICTURE.shape)
    if expected is not None:
        assert np.abs(read.astype(int) - expected).max() <= 1


def test_a_16_bit_grey_file_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    np.testing.assert_array_equal(read_image(tmp_path / "ramp.png")[:, :, 0], ramp >> 8)


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_what_is_no_usable_picture_is_an_error_that_says_why(tmp_path: Path, name: str) -> None:
    make, error, message = BAD_SOURCES[name]
    with pytest.raises(error, match=message):
        read_image(make(tmp_path))  # type: ignore[arg-type]


def test_the_largest_picture_is_read() -> None:
    assert read_image(np.zeros((1, MAX_PIXELS), dtype=np.uint8)).shape == (1, MAX_PIXELS, 3)


sides = st.integers(1, 120)


@given(sides, sides, sides, sides)
def test_fitting_is_scaling_and_then_cropping(h0: int, w0: int, height: int, width: int) -> None:
    image = smooth(h0, w0)
    scale = max(width / w0, height / h0)
    scaled = Image.fromarray(image).resize((max(width, int(w0 * scale)), max(height, int(h0 * scale))), Image.LANCZOS)
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    expected = np.asarray(scaled.crop((left, top, left + width, top + height)))
    fitted = fit_image(image, (height, width))
    assert (fitted.dtype, fitted.shape) == (np.uint8, (height, width, 3))
    assert np.abs(fitted.astype(int) - expected).max() <= 1


@given(sides, sides, sides, sides)
def test_fitting_never_draws_a_black_line(h0: int, w0: int, height: int, width: int) -> None:
    assert fit_image(np.full((h0, w0, 3), 255, dtype=np.uint8), (height, width)).min() == 255


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    np.testing.assert_array_equal(fit_image(PICTURE, (20, 30)), PICTURE)


def test_a_very_long_picture_is_fitted_without_scaling_all_of_it() -> None:
    assert fit_image(np.zeros((1, 1_000_000, 3), dtype=np.uint8), (1000, 1000)).shape == (1000, 1000, 3)


@pytest.mark.parametrize("size", [(24, 40), (96, 128), (7, 100)])
def test_frames_are_scaled_as_pillow_scales_them(size: tuple[int, int]) -> None:
    frames = np.stack([smooth(48, 64), smooth(48, 64)[::-1]])
    scaled = resize_frames(torch.from_numpy(frames.copy()), size)
    expected = [Image.fromarray(frame).resize(size[::-1], Image.BILINEAR) for frame in frames]
    assert scaled.dtype == torch.uint8
    assert np.abs(scaled.numpy().astype(int) - np.stack(expected)).max() <= 1


def test_frames_of_the_right_size_are_not_copied() -> None:
    frames = torch.zeros(2, 6, 8, 3, dtype=torch.uint8)
    assert resize_frames(frames, (6, 8)) is frames


def test_sixteen_bits_of_grey_are_scaled_in_every_byte_order() -> None:
    grey = np.array([[0, 0x4000, 0xFFFF]], np.uint16)
    for order, mode in (("<u2", "I;16"), (">u2", "I;16B")):
        picture = Image.frombytes(mode, (3, 1), grey.astype(order).tobytes())
        assert read_image(picture)[0, :, 0].tolist() == [0, 0x40, 0xFF]


@pytest.mark.parametrize("values", [(0, 200), (-1, 70), (0, 70_000)])
def test_wide_pictures_of_another_range_are_refused(values: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"has values 0\.\.65535, these are"):
        read_image(Image.fromarray(np.array([values], np.int32)))
    assert read_image(Image.fromarray(np.zeros((2, 2), np.int32))).max() == 0


def test_a_fourth_channel_that_means_nothing_is_passed_over() -> None:
    assert read_image(Image.new("RGBX", (4, 3), (200, 100, 50, 0)))[0, 0].tolist() == [200, 100, 50]


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="is empty: 0x0 pixels"):
        read_image(Image.new("RGB", (0, 0)))


def test_an_image_of_another_file_format_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "a.eps") as image:
        monkeypatch.setattr(image, "load", lambda: pytest.fail("it was decoded, by another program"))
        with pytest.raises(ImageError, match="the picture is a EPS file: expected PNG"):
            read_image(image)
