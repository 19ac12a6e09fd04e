"""Reading back what the package wrote."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np


@dataclass(frozen=True)
class Film:
    """A film as a player sees it: frames are uint8 [N, height, width, 3]."""

    frames: np.ndarray
    fps: float
    description: str


def read_film(path: Path) -> Film:
    """Decode a film; fails if it is damaged."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True)
    description = next(line for line in result.stderr.decode().splitlines() if "Video: h264" in line)
    size, fps = re.search(r", (\d+)x(\d+)", description), re.search(r"([\d.]+) fps", description)
    assert size is not None
    assert fps is not None
    width, height = int(size[1]), int(size[2])
    return Film(np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3), float(fps[1]), description)
