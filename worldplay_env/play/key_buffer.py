"""The key timeline: from keys going down and up to one action for every latent frame.

A chunk follows the keys that are held when its generation starts, and those that were tapped since the last one
started. A held key counts for the whole chunk; a tap for as many latent frames as it lasted, at least one. Taps of
opposite keys follow one another instead of cancelling, and what does not fit waits for the next chunk: no tap is
lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from worldplay_env.control.actions import KEYS

AXES = (("w", "s"), ("a", "d"), ("up", "down"), ("left", "right"))
"""Pairs of opposite keys."""


@dataclass(frozen=True)
class Taken:
    """What the keys ask of one chunk.

    Attributes:
        keys: The keys of each latent frame, in the order of `control.actions.KEYS`.
        pressed_at: When the earliest of those keys went down that no earlier chunk answered; None if none did.
    """

    keys: list[tuple[str, ...]]
    pressed_at: float | None


@dataclass
class _Tap:
    key: str
    pressed_at: float
    seconds: float


class KeyBuffer:
    """Keeps what keys were pressed, until a chunk takes them; times are in seconds, of any clock.

    Args:
        latent_seconds: How long a latent frame plays.
    """

    def __init__(self, latent_seconds: float) -> None:
        self._latent_seconds = latent_seconds
        self._held: dict[str, float] = {}
        self._answered: set[str] = set()
        """Held keys that an earlier chunk took already: letting go of one is no tap."""
        self._taps: list[_Tap] = []

    @property
    def held(self) -> frozenset[str]:
        """The keys that are down."""
        return frozenset(self._held)

    @property
    def idle(self) -> bool:
        """Whether no key is down, and none was tapped that a chunk has yet to answer."""
        return not self._held and not self._taps

    def press(self, key: str, now: float) -> None:
        """Say that one of `KEYS` went down; a second time in a row (a keyboard's repeat) is nothing new.

        Raises:
            ValueError: Another key.
        """
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}: known are {', '.join(KEYS)}")
        self._held.setdefault(key, now)

    def release(self, key: str, now: float) -> None:
        """Say that a key went up; a key that was not down is passed over."""
        pressed_at = self._held.pop(key, None)
        if pressed_at is None:
            return
        if key not in self._answered:
            self._taps.append(_Tap(key, pressed_at, now - pressed_at))
        self._answered.discard(key)

    def release_all(self, now: float) -> None:
        """Say that every key went up: the window lost the keyboard."""
        for key in list(self._held):
            self.release(key, now)

    def forget_taps(self) -> None:
        """Drop what waits for the next chunk; held keys stay held."""
        self._taps.clear()

    def take(self, latents: int) -> Taken:
        """Return the keys of the next chunk, whose generation starts now, and count them as answered.

        Args:
            latents: The latent frames that actions lead to: four, or three in chunk 0.
        """
        new = [since for key, since in self._held.items() if key not in self._answered]
        new += [tap.pressed_at for tap in self._taps]
        self._taps.sort(key=lambda tap: tap.pressed_at)
        slots: list[set[str]] = [set() for _ in range(latents)]
        for axis in AXES:
            tapped = self._take_taps(axis, latents)
            held = {key for key in axis if key in self._held}
            for slot, keys in zip(slots, [{key} for key in tapped] + [held] * (latents - len(tapped)), strict=True):
                slot |= keys
        self._answered = set(self._held)
        return Taken([tuple(key for key in KEYS if key in slot) for slot in slots], min(new, default=None))

    def _take_taps(self, axis: tuple[str, str], latents: int) -> list[str]:
        """Take the taps of an axis that fit, and return the key of each latent frame from the first on."""
        runs: list[list[_Tap]] = []  # taps of one key in a row: several quick ones may share a latent frame
        for tap in self._taps:
            if tap.key in axis:
                if runs and runs[-1][0].key == tap.key:
                    runs[-1].append(tap)
                else:
                    runs.append([tap])
        fitting = runs[:latents]
        taken = [id(tap) for run in fitting for tap in run]
        self._taps = [tap for tap in self._taps if id(tap) not in taken]
        spare = latents - len(fitting)
        keys = []
        for run in fitting:
            wanted = sum(max(1, math.ceil(tap.seconds / self._latent_seconds)) for tap in run)
            length = min(wanted, 1 + spare)
            spare -= length - 1
            keys += [run[0].key] * length
        return keys
