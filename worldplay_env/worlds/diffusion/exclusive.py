"""The networks of a world, for one call at a time."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from worldplay_env.worlds.diffusion.room import OutOfMemoryError, is_out_of_memory


class ExclusiveUse:
    """A lock around networks and buffers.

    Args:
        device: Where the networks are.
        forget: Gives back buffers, called where there was no memory.
        remedy: What helps against that, a sentence for a person.
    """

    def __init__(self, device: torch.device, forget: Callable[[], None], remedy: str) -> None:
        self._device = device
        self._forget = forget
        self._remedy = remedy
        self.lock = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the networks and buffers for one call, in a context that does not depend on the caller's.

        Without gradients, so that results are cheap to keep; not in inference mode, whose tensors could not be
        written later; not in autocast, which would change results.

        Raises:
            OutOfMemoryError: The call found no memory.
        """
        autocast = torch.autocast(self._device.type, enabled=False)
        with self.lock, torch.inference_mode(False), torch.no_grad(), autocast:
            try:
                yield
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._forget()
                traceback.clear_frames(error.__traceback__)  # they would keep the tensors of the failed call alive
                raise OutOfMemoryError(
                    f"out of memory on {self._device}; no rollout was changed. {self._remedy}"
                ) from error
