"""How far loading a world has come, as well as can be seen from outside: by what is downloaded, else by the clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldplay_env.worlds.registry import GIGABYTE, find

LOOK_SECONDS = 1.0
"""How often the cache is looked at."""
RATE_SECONDS = 20.0
"""Over how long a download's rate is taken."""
LEAST_SECONDS = 4.0
"""... and over how long at least."""
GAP_SECONDS = 3.0
"""How long there may be no file on its way, between one and the next, before a download counts as over."""


@dataclass(frozen=True)
class Progress:
    """A bar and the words above it."""

    text: str
    fraction: float


class Loading:
    """Watches worlds being loaded.

    Args:
        worlds: Their names or folders; what is usual is said of the one that takes longest.
    """

    def __init__(self, worlds: Sequence[str]) -> None:
        self._usual = max((find(world).load_time for world in worlds), key=lambda usual: usual.seconds)
        self._download = Download(_hub_cache(), self._usual.download) if self._usual.download else None

    def progress(self, what: str, seconds: float) -> Progress:
        """Return what to show after so many seconds of doing `what`."""
        download = self._download
        if download is not None:
            download.look(seconds)
            if download.running:
                return Progress(f"{what}: {download.words()}", download.fraction)
            seconds -= download.ended
        # Without a count, the bar nears its end and never quite gets there.
        fraction = 1 - math.exp(-1.5 * seconds / self._usual.seconds)
        return Progress(f"{what}: {seconds:.0f} s (usually {self._usual.words})", fraction)


class Download:
    """Watches the files of the worlds' repositories grow in the hub's cache; times are in seconds, of any clock.

    Args:
        cache: The hub's cache.
        total: About how many bytes there will be.
    """

    def __init__(self, cache: Path, total: float) -> None:
        self.running = False
        """Whether files are being downloaded."""
        self.ended = 0.0
        """When a download was last seen to run; 0 if none has."""
        self._cache, self._total = cache, total
        self._leftover = {path: size for path, size in _files(cache).items() if _partial(path)}
        """Beginnings of files that an earlier download left behind: they count only once they grow."""
        self._seen: deque[tuple[float, float]] = deque()
        """When how many bytes were there, of late."""

    def look(self, now: float) -> None:
        """See how far the download is, if it is not too soon after the last time."""
        if self._seen and now - self._seen[-1][0] < LOOK_SECONDS:
            return
        files = {path: size for path, size in _files(self._cache).items() if self._leftover.get(path) != size}
        self._seen.append((now, sum(files.values())))
        while now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        if any(map(_partial, files)):
            self.running, self.ended = True, now
        elif now - self.ended > GAP_SECONDS:
            self.running = False

    @property
    def fraction(self) -> float:
        """How much of the download is there, 0 to 1."""
        return min(1.0, self._seen[-1][1] / self._total)

    def words(self) -> str:
        """Return how much is there, and how long the rest will take."""
        (since, before), (now, there) = self._seen[0], self._seen[-1]
        text = f"downloaded {there / GIGABYTE:.1f} of about {self._total / GIGABYTE:.0f} GB"
        if now - since < LEAST_SECONDS:
            return text
        if there <= before:
            return f"{text}, waiting for the network"
        minutes = max(0.0, self._total - there) * (now - since) / (there - before) / 60
        return f"{text}, {minutes:.0f} min left" if minutes >= 1 else f"{text}, nearly there"


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _partial(path: Path) -> bool:
    """Return whether a file of the cache is one that is not complete yet."""
    return path.suffix == ".incomplete"


def _files(cache: Path) -> dict[Path, int]:
    """Return the bytes of each file of the worlds' repositories in the hub's cache, whole or not."""
    sizes = {}
    for pattern in ("models--tencent--HY-WorldPlay/blobs/*", "models--Wan-AI--Wan2.2-TI2V-5B-Diffusers/blobs/*"):
        for path in cache.glob(pattern):
            try:
                status = path.stat()
            except OSError:  # renamed since it was listed
                continue
            # A file may be given its full length before it is filled: what takes room on the disk is there.
            blocks = getattr(status, "st_blocks", None)
            sizes[path] = status.st_size if blocks is None else min(status.st_size, 512 * blocks)
    return sizes
