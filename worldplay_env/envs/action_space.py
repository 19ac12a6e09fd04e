"""The action space of environments, and the check of a step's action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldplay_env.control.actions import NUM_ACTIONS
from worldplay_env.control.held_keys import HELD_KEYS

ACTIONS = ("chunk", "latent", "keys")
"""One action for a chunk, one for each of its latent frames, or the keys that are held during a chunk."""


class InvalidAction(gymnasium.error.InvalidAction, ValueError):  # noqa: N818 (Gymnasium's name)
    """An action that is not in the action space; nothing was changed."""


def action_space(actions: str, latents: int) -> spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary:
    """Return the action space of a single env for one of `ACTIONS`; ValueError for another name."""
    if actions not in ACTIONS:
        raise ValueError(f"unknown actions {actions!r}: known are {', '.join(ACTIONS)}")
    if actions == "keys":
        return spaces.MultiBinary(len(HELD_KEYS))
    return spaces.Discrete(NUM_ACTIONS) if actions == "chunk" else spaces.MultiDiscrete([NUM_ACTIONS] * latents)


def check_action(action: Any, space: spaces.Space[Any]) -> np.ndarray:
    """Return an action of a space, or a batch of them, as int64; raises InvalidAction for another.

    Args:
        action: Labels 0..80, or with `actions="keys"` 0 and 1.
        space: Of one env or of a batch of them.
    """
    shape, most = space.shape or (), 1 if isinstance(space, spaces.MultiBinary) else NUM_ACTIONS - 1
    expected = " x ".join(map(str, shape)) + " whole numbers" if shape else "a whole number"
    error = InvalidAction(f"an action is {expected} 0..{most}, got {action!r}")
    try:
        labels = np.asarray(action)
    except (TypeError, ValueError) as ragged:
        raise error from ragged
    if any(isinstance(part, bool | np.bool_) for part in _parts(action)):  # which numpy takes for 0 or 1
        raise error
    if labels.dtype.kind not in "iu" or labels.shape != shape or labels.min() < 0 or labels.max() > most:
        raise error
    return labels.astype(np.int64)


def _parts(action: Any) -> Iterator[Any]:
    """Yield the numbers of nested lists and tuples."""
    if isinstance(action, list | tuple):
        for part in action:
            yield from _parts(part)
    else:
        yield action
