"""Room on a world's device: the text encoder leaves a GPU when a chunk needs its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from worldplay_env.models.config import WorldConfig
from worldplay_env.models.footprint import buffer_bytes, chunk_bytes
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.worlds.base import CHUNK_LATENTS, WorldError

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


class Room:
    """Sees to it that chunks find memory, as long as there is a text encoder to give up for it.

    The encoder is loaded again when the next new prompt is encoded.

    Args:
        config: The world's sizes.
        text_encoder: What leaves; None if the world has none. One of a program's own that cannot leave stays.
        device: Where the world computes.
        dtype: In which it does.
        latents_per_decode: Latent frames that a decoder pass takes.
    """

    def __init__(
        self,
        config: WorldConfig,
        text_encoder: TextEncoder | None,
        device: torch.device,
        dtype: torch.dtype,
        latents_per_decode: int,
    ) -> None:
        self._config = config
        self._text_encoder = text_encoder if hasattr(text_encoder, "loaded") else None
        self._device = device
        self._itemsize = dtype.itemsize
        self._latents_per_decode = latents_per_decode

    def needed(self, batch: int, buffered: int) -> int:
        """Return about how many bytes the next chunk of `batch` worlds takes, with buffers there for `buffered`."""
        buffers = [buffer_bytes(self._config, worlds, CHUNK_LATENTS, self._itemsize) for worlds in (batch, buffered)]
        passing = chunk_bytes(self._config, batch, self._latents_per_decode, CHUNK_LATENTS, self._itemsize)
        return passing + max(0, buffers[0] - buffers[1])

    def make(self, batch: int, buffered: int) -> None:
        """Let the text encoder leave if the next chunk of `batch` worlds would not fit beside it."""
        if self._text_encoder is None or not self._text_encoder.loaded:
            return
        free = free_bytes(self._device)
        if free is not None and free < self.needed(batch, buffered):
            self._text_encoder.release()

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
