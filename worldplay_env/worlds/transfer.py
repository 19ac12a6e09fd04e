"""From a device to numpy: through pinned memory, which the device writes to at full speed, into memory of one's own.

What is handed out is ordinary memory: pinned memory is scarce, and a forked process cannot read it. Torch is imported
by whoever made the tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 16 << 20
"""Bytes that go through pinned memory at a time: while one piece is on its way, the one before it is copied out."""


class Arrival(Protocol):
    """What a copy that runs by itself can be waited for with."""

    def synchronize(self) -> None:
        """Return when everything that was begun before it is done."""


def fetch(tensor: Tensor, *, own: bool = False) -> np.ndarray:
    """Return a tensor's values as an array: new memory if it is on a GPU, its own memory if it is on the CPU.

    Args:
        tensor: On any device, of a dtype that numpy has.
        own: Copy what is on the CPU, too.
    """
    if tensor.device.type != "cuda":
        values = tensor.detach().cpu().numpy()
        return values.copy() if own else values
    import torch

    source = tensor.detach().contiguous()
    result = np.empty(source.shape, torch.empty(0, dtype=source.dtype).numpy().dtype)
    if result.size:
        with torch.cuda.device(source.device):
            through(_pinned, _begin, source, torch.from_numpy(result))
    return result


def through(
    stage: Callable[[int], Tensor],
    begin: Callable[[Tensor, Tensor], Arrival],
    source: Tensor,
    target: Tensor,
    piece: int = PIECE,
) -> None:
    """Copy a tensor to another of its shape and dtype by way of staging memory, a piece at a time.

    Args:
        stage: Makes staging memory of so many bytes, uint8.
        begin: Begins to copy from its second argument to its first, and returns what that is waited for with.
        source: Contiguous and not empty.
        target: Contiguous.
        piece: Bytes at a time; two pieces have staging memory at once.
    """
    import torch

    there, here = (tensor.reshape(-1).view(torch.uint8) for tensor in (source, target))
    room = [stage(min(piece, len(there))) for _ in range(1 if len(there) <= piece else 2)]
    under_way: tuple[Arrival, Tensor, Tensor] | None = None
    for number, (part, place) in enumerate(zip(there.split(piece), here.split(piece), strict=True)):
        staged = room[number % 2][: len(part)]
        following = (begin(staged, part), staged, place)
        if under_way is not None:
            _finish(*under_way)
        under_way = following
    if under_way is not None:
        _finish(*under_way)


def _finish(arrived: Arrival, staged: Tensor, place: Tensor) -> None:
    arrived.synchronize()
    place.copy_(staged)


def _pinned(size: int) -> Tensor:
    import torch

    return torch.empty(size, dtype=torch.uint8, pin_memory=True)  # torch keeps such memory for the next time


def _begin(staged: Tensor, part: Tensor) -> Arrival:
    import torch

    staged.copy_(part, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return event
