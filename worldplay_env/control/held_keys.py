"""A keyboard's state, as a world reads it that is told held keys: a vector of eight, and files of such vectors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from worldplay_env.control.actions import keys_of

HELD_KEYS = ("w", "a", "s", "d", "up", "left", "down", "right")
"""The order of a vector: forward, left, back, right; look up, left, down, right."""
OPPOSITES = (("w", "s"), ("a", "d"), ("up", "down"), ("left", "right"))

Item = TypeVar("Item")


def vector_of_keys(keys: Collection[str]) -> tuple[int, ...]:
    """Return 1 for each of `HELD_KEYS` that is held, else 0; any combination is legal.

    Raises:
        ValueError: A key that is none of them.
    """
    if unknown := set(keys).difference(HELD_KEYS):
        raise ValueError(f"unknown key {min(map(repr, unknown))}: known are {', '.join(HELD_KEYS)}")
    return tuple(int(key in keys) for key in HELD_KEYS)


def vector_of_label(label: int) -> tuple[int, ...]:
    """Return the vector of the keys that an action label 0..80 holds."""
    return vector_of_keys(keys_of(label))


def held_keys(pressed: Collection[str], activated: Collection[str]) -> tuple[str, ...]:
    """Return the keys that count for a block, in the order of `HELD_KEYS`.

    Of two opposite keys the one that was activated wins; if both were, or neither, both count.

    Args:
        pressed: Keys held down as the block begins.
        activated: Keys that went down since the block before.
    """
    held = set(pressed) | set(activated)
    for pair in OPPOSITES:
        newest = set(pair) & set(activated)
        if held.issuperset(pair) and len(newest) == 1:
            held -= set(pair) - newest
    return tuple(key for key in HELD_KEYS if key in held)


def sampled(entries: Sequence[Item], rate: float, fps: float, images: int) -> list[Item]:
    """Return the entry of each block of a video, of entries at another rate; one block at least.

    Args:
        entries: At least one.
        rate: Entries a second.
        fps: Images of video a second.
        images: Images of a block.
    """
    step = rate * images / fps
    blocks = max(int(len(entries) / step), 1)
    return [entries[min(int(block * step), len(entries) - 1)] for block in range(blocks)]


def extended(entries: Sequence[Item], blocks: int, *, repeat: bool) -> list[Item]:
    """Return as many entries as there are blocks: the first ones; beyond the last, all over again or the last."""
    return [entries[block % len(entries) if repeat else min(block, len(entries) - 1)] for block in range(blocks)]
