"""Read untrusted pictures, fit them to a world's size, and scale output frames."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch

ImageSource = str | Path | Image.Image | np.ndarray
"""The sources of `read_image`."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""The only file formats that are decoded; of an animation, the first frame."""
_MPO = "MPO"
"""PIL's name of a JPEG file with several pictures, as cameras write it."""
MAX_PIXELS = 50_000_000
"""Larger pictures are refused from their header, before they are decoded."""


class ImageError(ValueError):
    """A picture cannot be used; the message says which, and why."""


def read_image(source: ImageSource) -> np.ndarray:
    """Return a picture as uint8 [height, width, 3].

    Grey, palette and 16-bit pictures become RGB, transparent ones are laid over black, and a camera's EXIF rotation
    is applied.

    Args:
        source: The path of a PNG, JPEG, WebP, BMP or GIF file (a local path: nothing is fetched), a PIL image (in
            memory, or opened from such a file), or a uint8 array [height, width] or [height, width, 1, 3 or 4].

    Raises:
        ImageError: A path that is missing, not a picture or truncated; a PIL image of another file format, with
            values of another range; an empty one; over 50 megapixels; an array of another dtype or shape.
        TypeError: `source` is none of these.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_image_of_array(source))
    if isinstance(source, Image.Image):
        _check_size(source.size, "the picture")
        if source.format not in (None, _MPO, *FORMATS):  # some formats are read by running other programs
            raise ImageError(f"the picture is a {source.format} file: expected {', '.join(FORMATS)}")
        return _decode(source, "the picture")
    if isinstance(source, str | Path):
        return _read_file(Path(source))
    raise TypeError(f"a picture is a path, a PIL image or a uint8 array, got {type(source).__name__}: {source!r}")


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a picture until it covers `size`, and cut out its centre (spec section 4).

    Args:
        image: uint8 [h0, w0, 3].
        size: Height and width in pixels.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = size
    h0, w0 = image.shape[:2]
    scale = max(width / w0, height / h0)
    # Truncation can leave a side one pixel short of the target; the maximum keeps the crop inside the picture.
    scaled_height, scaled_width = max(height, int(h0 * scale)), max(width, int(w0 * scale))
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    picture, lanczos = Image.fromarray(image), Image.Resampling.LANCZOS
    if scaled_height * scaled_width <= MAX_PIXELS:
        scaled = picture.resize((scaled_width, scaled_height), lanczos)
        return np.array(scaled.crop((left, top, left + width, top + height)))
    # A strip that would grow beyond all bounds: scale what the crop shows alone (equal but for rounding).
    across, down = w0 / scaled_width, h0 / scaled_height
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    return np.array(picture.resize((width, height), lanczos, box=box))


def cover_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale the centre of a picture to cover `size` in one resampling, of a box with fractional sides.

    `fit_image` scales to whole pixels first and cuts then; a world takes the one that its model was trained with.

    Args:
        image: uint8 [h0, w0, 3].
        size: Height and width in pixels.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = size
    return np.array(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS))


def stretch_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a picture, uint8 [h0, w0, 3], to `size` = (height, width) without keeping its aspect ratio."""
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_frames(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Scale frames on their own device, without keeping their aspect ratio.

    Args:
        frames: uint8 [frames, height, width, 3].
        size: New height and width in pixels.

    Returns:
        uint8 [frames, *size, 3]; `frames` itself if they have that size.
    """
    import torch

    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    planes = frames.permute(0, 3, 1, 2).float()  # [frames, 3, height, width]
    planes = torch.nn.functional.interpolate(planes, size=tuple(size), mode="bilinear", antialias=True)
    return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _image_of_array(array: np.ndarray) -> Image.Image:
    expected = "expected uint8 [height, width] or [height, width, 1, 3 or 4]"
    if array.dtype != np.uint8:
        raise ImageError(f"the picture's array has dtype {array.dtype}, {expected} with values 0..255")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ImageError(f"the picture's array has shape {array.shape}, {expected}")
    _check_size((array.shape[1], array.shape[0]), "the picture")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _read_file(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ImageError(f"no picture at {str(path)!r}: expected the path of a {', '.join(FORMATS)} file")
    try:
        with warnings.catch_warnings():
            # Pillow's own limits are higher than ours and only warn at first.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{str(path)!r} has over {MAX_PIXELS:,} pixels, the most that is read") from error
    except Exception as error:  # what a decoder raises over a broken header differs from format to format
        raise ImageError(f"{str(path)!r} is not a picture that can be read ({', '.join(FORMATS)})") from error
    with image:
        _check_size(image.size, repr(str(path)))
        return _decode(image, repr(str(path)))


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width}x{height} pixels, over the {MAX_PIXELS:,} that are read: scale it down")


def _decode(image: Image.Image, name: str) -> np.ndarray:
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # what a decoder raises over broken data differs from format to format
        if isinstance(error, MemoryError | ImageError):
            raise
        raise ImageError(f"{name} is truncated or damaged: {error}") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits of grey, which PIL would clip at 255
        image = Image.fromarray(_high_bytes(np.asarray(image).astype(np.int64)))
    if image.mode == "F":
        raise ImageError("a floating-point picture has no fixed range: convert it to 8 bits")
    if image.mode == "RGBX":
        image = image.convert("RGB")  # its fourth channel means nothing
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(ground, image)
    return np.array(image.convert("RGB"))


def _high_bytes(values: np.ndarray) -> np.ndarray:
    """Return the high bytes, uint8, of values of 16 bits; refuse those that are of another range."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 0xFFFF or 0 < most < 0x100:
        raise ImageError(
            f"a picture of 16 bits has values 0..65535, these are {least}..{most}: convert it to 8 bits (mode L)"
        )
    return (values >> 8).astype(np.uint8)
