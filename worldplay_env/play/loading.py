"""How far loading a world has come, as well as can be seen from outside: by what is downloaded, else by the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

GIGABYTE = 1e9


@dataclass(frozen=True)
class Usual:
    """What loading a world usually takes.

    Attributes:
        seconds: From the disk.
        download: Bytes, the first time.
        words: Both, for a person.
    """

    seconds: float
    words: str
    download: float = 0.0


USUAL = {
    "testcard": Usual(2, "a second or two"),
    "scene": Usual(3, "a few seconds"),
    "tiny": Usual(5, "a few seconds"),
    "wan-5b": Usual(90, "a minute or two; the first time a download of 30 GB, 5 to 60 minutes", 30 * GIGABYTE),
}
FOLDER = Usual(60, "seconds for a small world, a minute or two for a large one")


@dataclass(frozen=True)
class Progress:
    """A bar and the words above it."""

    text: str
    fraction: float


class Loading:
    """Watches a world being loaded.

    Args:
        world: Its name, or a folder.
    """

    def __init__(self, world: str) -> None:
        self._usual = USUAL.get(world, FOLDER)
        self._cache = _hub_cache() if self._usual.download else None
        self._bytes_before = _size(self._cache)
        self._looked_at = -math.inf
        self._bytes = 0.0

    def progress(self, what: str, seconds: float) -> Progress:
        """Return what to show after so many seconds of doing `what`."""
        if self._cache is not None and seconds - self._looked_at >= 1:
            self._looked_at, self._bytes = seconds, _size(self._cache) - self._bytes_before
        if self._bytes > 0:
            done = min(1.0, (self._bytes_before + self._bytes) / self._usual.download)
            rate = self._bytes / seconds
            left = (1 - done) * self._usual.download / rate / 60
            text = f"{what}: downloaded {done * self._usual.download / GIGABYTE:.1f} of about 30 GB"
            return Progress(f"{text}, {left:.0f} min left", done)
        # Without a count, the bar nears its end and never quite gets there.
        fraction = 1 - math.exp(-1.5 * seconds / self._usual.seconds)
        return Progress(f"{what}: {seconds:.0f} s (usually {self._usual.words})", fraction)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _size(cache: Path | None) -> float:
    """Return the bytes of the worlds' repositories in the hub's cache, whole and partly downloaded."""
    if cache is None:
        return 0.0
    total = 0.0
    for pattern in ("models--tencent--HY-WorldPlay/blobs/*", "models--Wan-AI--Wan2.2-TI2V-5B-Diffusers/blobs/*"):
        for path in cache.glob(pattern):
            try:
                total += path.stat().st_size
            except OSError:  # renamed since it was listed
                continue
    return total
