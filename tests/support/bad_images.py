"""Pictures that are refused, and how."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from worldplay_env.media.image import ImageError

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Return a picture of gradients, uint8 [height, width, 3]."""
    rows, columns = np.indices((height, width))
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG file that says it is of that size."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", zlib.compress(b"")) + piece(b"IEND", b"")


def write_tiff(folder: Path) -> Path:
    Image.fromarray(PICTURE).save(folder / "picture.tiff")
    return folder / "picture.tiff"


def write_truncated(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / f"half.{suffix}"
        Image.fromarray(smooth(200, 300)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return write


def write_bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def write_broken_checksum(folder: Path) -> Path:
    path = folder / "broken.png"
    Image.fromarray(PICTURE).save(path)
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    return path


BAD_SOURCES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "missing": (lambda folder: folder / "none.png", ImageError, "no picture at .*none.png"),
    "a folder": (lambda folder: folder, ImageError, "no picture at"),
    "an address": (lambda _: "https://example.org/picture.png", ImageError, "no picture at"),
    "text": (write_bytes("notes.png", b"no picture at all"), ImageError, "notes.png.* is not a picture"),
    "empty": (write_bytes("empty.png", b""), ImageError, "is not a picture"),
    "tiff": (write_tiff, ImageError, "is not a picture that can be read .PNG, JPEG, WEBP, BMP, GIF."),
    "truncated png": (write_truncated("png"), ImageError, "half.png.* is truncated or damaged"),
    "truncated jpeg": (write_truncated("jpg"), ImageError, "half.jpg.* is truncated or damaged"),
    "truncated webp": (write_truncated("webp"), ImageError, "half.webp"),
    "truncated bmp": (write_truncated("bmp"), ImageError, "half.bmp.* is truncated or damaged"),
    "truncated gif": (write_truncated("gif"), ImageError, "half.gif.* is truncated or damaged"),
    "broken": (write_broken_checksum, ImageError, "broken.png"),
    "60 megapixels": (write_bytes("large.png", png_header(10_000, 6_000)), ImageError, "10000x6000.*50,000,000"),
    "100 megapixels": (write_bytes("larger.png", png_header(10_000, 10_000)), ImageError, "50,000,000"),
    "400 megapixels": (write_bytes("largest.png", png_header(20_000, 20_000)), ImageError, "50,000,000"),
    "large pil": (lambda _: Image.new("1", (10_000, 6_000)), ImageError, "10000x6000"),
    "large array": (lambda _: np.broadcast_to(np.uint8(0), (6_000, 10_000, 3)), ImageError, "10000x6000"),
    "float array": (lambda _: PICTURE / 255, ImageError, "dtype float64, expected uint8"),
    "int64 array": (lambda _: PICTURE.astype(np.int64), ImageError, "dtype int64, expected uint8"),
    "two channels": (lambda _: PICTURE[:, :, :2], ImageError, r"shape \(20, 30, 2\), expected"),
    "channels first": (lambda _: PICTURE.transpose(2, 0, 1), ImageError, r"shape \(3, 20, 30\), expected"),
    "a batch": (lambda _: PICTURE[None], ImageError, r"shape \(1, 20, 30, 3\), expected"),
    "a line": (lambda _: PICTURE[0, :, 0], ImageError, r"shape \(30,\), expected"),
    "nothing": (lambda _: PICTURE[:0], ImageError, r"shape \(0, 30, 3\), expected"),
    "float pixels": (lambda _: Image.new("F", (4, 4)), ImageError, "floating-point"),
    "a number": (lambda _: 3, TypeError, "a picture is a path, a PIL image or a uint8 array, got int: 3"),
    "a list": (lambda _: [[0, 1]], TypeError, "got list"),
}
