"""Which rollouts go through the networks together, and what they bring along."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from worldplay_env.models.codec import DecoderState


def grouped(kinds: Sequence[Hashable], *, most: int | None = None) -> list[list[int]]:
    """Return the indices of the rollouts that go through the networks together.

    Args:
        kinds: Of each rollout of a step; those of one kind can go together.
        most: Rollouts in a group; None: any number.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        groups[kind].append(index)
    most = most or max(len(kinds), 1)
    return [group[first : first + most] for group in groups.values() for first in range(0, len(group), most)]


def stacked(states: list[DecoderState | None]) -> DecoderState | None:
    """Join decoder states, which are all None, at a first chunk, or all there."""
    known = [state for state in states if state is not None]
    return DecoderState.stack(known) if known else None
