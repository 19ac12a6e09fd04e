"""Which rollouts go through the networks together, and what they bring along."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from worldplay_env.models.wan.autoencoder import DecoderState
from worldplay_env.models.worldplay import memory
from worldplay_env.worlds.base import CHUNK_LATENTS
from worldplay_env.worlds.diffusion.rollout import DreamRollout


def memory_length(rollout: DreamRollout) -> int:
    """Return how many latent frames the next chunk of a rollout sees."""
    return min(rollout.chunks * CHUNK_LATENTS, memory.MEMORY)


def grouped(rollouts: Sequence[DreamRollout], *, mixed_ages: bool, most: int | None) -> list[list[int]]:
    """Return the indices of the rollouts that go through the networks together.

    Args:
        rollouts: Of one step.
        mixed_ages: Whether memories of all lengths go through together.
        most: Rollouts in a group; None: any number.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, rollout in enumerate(rollouts):
        groups[0 if mixed_ages else memory_length(rollout)].append(index)
    most = most or max(len(rollouts), 1)
    return [group[first : first + most] for group in groups.values() for first in range(0, len(group), most)]


def first_and_later(rollouts: Sequence[DreamRollout]) -> list[list[int]]:
    """Return the indices of the rollouts that are at their first chunk, and of the others; those that are not empty.

    A first chunk has fewer frames, and no decoder state before it.
    """
    parts = [
        [index for index, rollout in enumerate(rollouts) if bool(rollout.chunks) == later] for later in (False, True)
    ]
    return [part for part in parts if part]


def stacked(states: list[DecoderState | None]) -> DecoderState | None:
    """Join decoder states, which are all None, at a first chunk, or all there."""
    known = [state for state in states if state is not None]
    return DecoderState.stack(known) if known else None
