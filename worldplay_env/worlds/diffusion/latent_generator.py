"""What makes the latents of chunks, as a `LatentWorld` calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from worldplay_env.worlds.base import Control
from worldplay_env.worlds.diffusion.timing import Stopwatch


@dataclass(frozen=True, eq=False)
class GeneratedChunk:
    """New chunks, before they are decoded.

    Attributes:
        latents: float32 [batch, C, L, h, w].
        past: For each rollout, what its `commit` takes.
        memory: The past latent frames that each was made from, int64 [K], sorted.
    """

    latents: Tensor
    past: list[Any]
    memory: list[np.ndarray]


class LatentGenerator(Protocol):
    """Generates the latents of chunks; it owns buffers, and the prompts' keys and values.

    One call at a time: the caller holds a lock, and commits what comes back.
    """

    @property
    def buffered(self) -> int:
        """Worlds that there are key/value buffers for."""

    def forget(self) -> None:
        """Give back buffers, tables and prompts' keys and values; the next call makes them anew."""

    def generate(
        self, rollouts: list[Any], controls: list[Control], noise: Tensor | None, watch: Stopwatch
    ) -> GeneratedChunk:
        """Generate the next chunk of rollouts in one pass.

        Args:
            rollouts: They are read, not changed.
            controls: The cameras of each one's next chunk.
            noise: float32 [len(rollouts), C, L, h, w] in place of the rollouts' own.
            watch: Gets the laps of the parts.
        """
