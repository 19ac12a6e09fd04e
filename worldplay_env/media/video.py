"""Video files of rollouts, recordings and played sessions.

Frames go to the encoder as they come, so a film of any length costs the memory of one frame. Files appear under their
name only when they are complete.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np

from worldplay_env.media.files import new_file

Resample = Literal["lanczos", "nearest"]
"""How films are enlarged: smoothly, or each pixel as a square."""
MOST_SCALE = 16
ENLARGED, ENLARGED_UNDER = 4, 256
"""How many times pictures of fewer rows than that are enlarged, unless something else is asked for."""

_TO_YUV = (
    "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,"
    "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)
# In fragments while it grows, so that what is there plays whatever ends the encoder; then in one piece.
_MP4 = "-c:v libx264 -preset fast -crf 16 -f mp4 -movflags hybrid_fragmented -g 32 -flush_packets 1"
# A palette for each frame: one for all would need the whole film first.
_TO_PALETTE = (
    "split[a][b];[a]palettegen=stats_mode=single[palette];[b][palette]paletteuse=new=1:dither=bayer:bayer_scale=5"
)
_FORMATS = {
    ".mp4": (_TO_YUV, _MP4.split()),
    ".gif": (_TO_PALETTE, ["-f", "gif", "-loop", "0"]),
    ".webp": ("format=yuv420p", ["-c:v", "libwebp", "-quality", "85", "-f", "webp", "-loop", "0"]),
}
"""By a film's suffix: the encoder's last filters, and its options."""


class FilmError(RuntimeError):
    """The encoder could not write a film."""


def as_frames(frames: np.ndarray) -> np.ndarray:
    """Return `frames` as [N, height, width, 3], or raise ValueError."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape[-3:]:
        raise ValueError(
            f"frames must be uint8 [height, width, 3] or [N, height, width, 3], got {frames.dtype} {frames.shape}"
        )
    return frames if frames.ndim == 4 else frames[None]


class _Encoder:
    """An ffmpeg that reads frames of one size from a pipe and writes a film of a format, enlarged."""

    def __init__(
        self, path: Path, kind: str, size: tuple[int, int], fps: float, scale: int, resample: Resample
    ) -> None:
        import imageio_ffmpeg  # brings the encoder's binary, which only films need

        height, width = size
        filters, options = _FORMATS[kind]
        if scale > 1:
            flags = {"lanczos": "lanczos", "nearest": "neighbor"}[resample]
            filters = f"scale=iw*{scale}:ih*{scale}:flags={flags},{filters}"
        # fmt: off
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}", "-i", "-",
            "-an", "-vf", filters, *options, f"file:{path}",
        ]
        # fmt: on
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        # A session of its own: Ctrl-C must reach this process alone, or the encoder stops before its last frames.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
            start_new_session=True,
        )

    def write(self, data: bytes) -> bool:
        """Hand frames on; return whether the encoder took them."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except OSError:
            return False
        return True

    def finish(self) -> str | None:
        """End the input and wait for the encoder; return its error, if any."""
        self._process.communicate()
        with self._messages as messages:
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip()
        return (said or f"ffmpeg ended with code {self._process.returncode}") if self._process.returncode else None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()
        self._messages.close()


class FilmWriter:
    """Writes a film frame by frame: H.264 (mp4, yuv420p, BT.709, nearly lossless), or an animated GIF or WebP.

    It encodes to a file of its own beside `path`, `partial`, and renames that to `path` once it is complete; an older
    film of that name stays until then. As a context manager it finishes the film when the block ends, keeps the
    partial film, playable up to where it came, when the block is interrupted (Ctrl-C) or the encoder fails (a full
    disk), and deletes it after any other error.

    Args:
        path: Where the film goes, ending in .mp4, .gif or .webp; its folder is made.
        fps: Frames per second of playback.
        scale: Pixels of the film, down and across, for each of a frame, 1 to 16; None for 4 if frames have fewer than
            256 rows, else 1. The attribute of that name is None only until the first frame.
        resample: How frames are enlarged: "lanczos" smoothly, "nearest" each pixel as a square.

    Raises:
        ValueError: A path that ends otherwise, a rate that is not positive, another scale or way to enlarge.
        OSError: The folder cannot be made or the file not be written; found out before the first frame.
    """

    def __init__(
        self, path: str | Path, fps: float = 16, *, scale: int | None = 1, resample: Resample = "lanczos"
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in _FORMATS:
            raise ValueError(f"a film's name must end in {', '.join(_FORMATS)}, got {str(path)!r}")
        if not (fps > 0 and math.isfinite(fps)):
            raise ValueError(f"a film's frames per second must be a positive number, got {fps}")
        check_scale(scale)
        if resample not in get_args(Resample):
            raise ValueError(f"a film is enlarged by {' or '.join(get_args(Resample))}, got {resample!r}")
        if self.path.is_dir():
            raise IsADirectoryError(f"cannot write the film: {self.path} is a folder")
        self.fps, self.scale, self.resample = fps, scale, resample
        self.frames = 0
        """Frames written so far."""
        self._size: tuple[int, int] | None = None
        self._encoder: _Encoder | None = None
        self._open = True
        self.partial = new_file(self.path)
        """The film until it is complete."""

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 [height, width, 3] or [N, height, width, 3]; all frames of a film have one size.

        Raises:
            ValueError: Frames of another type, shape or size, or a film that has been closed.
            FilmError: The encoder failed, with its own message; what it wrote before stays as `self.partial`.
        """
        frames = as_frames(frames)
        size = (frames.shape[1], frames.shape[2])
        if not self._open:
            raise ValueError(f"the film {self.path} is closed")
        if self._size not in (None, size):
            raise ValueError(f"the film's frames are {self._size} (height, width), got {size}")
        if len(frames) == 0:
            return
        if self.scale is None:
            self.scale = ENLARGED if size[0] < ENLARGED_UNDER else 1
        kind = self.path.suffix.lower()
        # yuv420p has one colour sample for 2x2 pixels: an odd side is completed by repeating its last row or column.
        rows, columns = (side * self.scale % 2 if kind == ".mp4" else 0 for side in size)
        padded = np.pad(frames, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
        if self._encoder is None:
            self._encoder = _Encoder(self.partial, kind, padded.shape[1:3], self.fps, self.scale, self.resample)
            self._size = size
        for frame in padded:  # one at a time: an interruption leaves whole frames, and they are counted
            if not self._encoder.write(frame.tobytes()):
                self._finish()
                raise FilmError(f"writing {self.path} failed: the encoder stopped early")
            self.frames += 1

    def close(self) -> None:
        """Finish the film and give it its name; without a single frame there is none. Closing twice is fine."""
        if self._open:
            self._finish()
            if self.frames:
                os.replace(self.partial, self.path)

    def interrupt(self) -> None:
        """Finish a playable file of the frames so far, `self.partial`; an older film of this name stays."""
        if self._open:
            self._finish()

    def discard(self) -> None:
        """Delete the unfinished film; an older film of this name stays."""
        if self._open:
            self._open = False
            if self._encoder is not None:
                self._encoder.kill()
            self.partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, KeyboardInterrupt):
            self.interrupt()
        else:
            self.discard()

    def _finish(self) -> None:
        """End the encoder. After a failure the partial film stays; without a frame there is none."""
        self._open = False
        failure = self._encoder.finish() if self._encoder is not None else None
        if not self.frames or (failure and _is_empty(self.partial)):
            self.partial.unlink(missing_ok=True)
        if failure:
            raise FilmError(f"writing {self.path} failed: {failure}")


def check_scale(scale: int | None) -> int | None:
    """Return a film's scale factor, None for an automatic one, or raise ValueError."""
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale <= MOST_SCALE):
        raise ValueError(f"the scale of a film is a whole number from 1 to {MOST_SCALE}, got {scale!r}")
    return scale


def _is_empty(path: Path) -> bool:
    """Return whether a file is there and holds nothing."""
    return path.exists() and path.stat().st_size == 0
