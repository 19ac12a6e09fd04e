"""Room on a world's device: the text encoder leaves a GPU when a chunk needs its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.worlds.base import WorldError

T = TypeVar("T")


class OutOfMemoryError(WorldError):
    """There was no memory for a call; nothing was changed by it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    # On a CPU torch has no class for it.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def free_bytes(device: torch.device) -> int | None:
    """Return how much of a GPU's memory can still be taken by this process; None for another kind of device."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.memory_allocated(device)
    # Unlike the others it takes no device without an index; of None it takes the current one, as they do.
    allowed = int(torch.cuda.get_per_process_memory_fraction(device.index) * total)
    # What torch holds back for itself and does not use is free to it.
    return min(free + torch.cuda.memory_reserved(device), allowed) - used


class Needed(NamedTuple):
    """Bytes that a chunk takes beside the parameters.

    Attributes:
        certain: Of buffers, and of what is kept: known to the byte.
        passing: Of what is alive while the networks run: an estimate.
    """

    certain: int
    passing: int


class Room:
    """Sees to it that chunks find memory, as long as there is a text encoder to give up for it.

    The encoder is loaded again when the next new prompt is encoded.

    Args:
        needed: Returns what a chunk takes (see `LatentWorld.needed`).
        text_encoder: What leaves; None if the world has none. One of a program's own that cannot leave stays.
        device: Where the world computes.
    """

    def __init__(
        self, needed: Callable[[int, int, int], Needed], text_encoder: TextEncoder | None, device: torch.device
    ) -> None:
        self._needed = needed
        self._text_encoder = text_encoder if hasattr(text_encoder, "loaded") else None
        self._device = device

    def make(self, batch: int, buffered: int, kept: int) -> None:
        """Let the text encoder leave if the next chunk would not fit beside it; arguments of `LatentWorld.needed`.

        Raises:
            OutOfMemoryError: What the chunk is certain to take does not fit without it, either.
        """
        needed, free = self._needed(batch, buffered, kept), free_bytes(self._device)
        if free is None:
            return
        if free < sum(needed) and self._text_encoder is not None and self._text_encoder.loaded:
            self._text_encoder.release()
            free = free_bytes(self._device)
        if free is not None and free < needed.certain:
            raise OutOfMemoryError(
                f"the next chunk of {kept} rollouts takes {needed.certain / 1e9:.1f} GB of keys and values, and "
                f"{max(free, 0) / 1e9:.1f} GB are free on {self._device}; no rollout was changed"
            )

    def retried(self, call: Callable[[], T]) -> T:
        """Return what a call returns; where it finds no memory beside the text encoder, once more without that.

        Raises:
            OutOfMemoryError: There is none without it, either.
        """
        try:
            return call()
        except OutOfMemoryError:
            if self._text_encoder is None or not self._text_encoder.loaded:
                raise
            self._text_encoder.release()
        return call()
