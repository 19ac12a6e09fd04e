"""The action space of environments, and the check of a step's action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldplay_env.control.actions import NUM_ACTIONS

ACTIONS = ("chunk", "latent")
"""One action for a chunk, or one for each of its latent frames."""


class InvalidAction(gymnasium.error.InvalidAction, ValueError):  # noqa: N818 (Gymnasium's name)
    """An action that is not in the action space; nothing was changed."""


def action_space(actions: str, latents: int) -> spaces.Discrete | spaces.MultiDiscrete:
    """Return the action space of a single env for one of `ACTIONS`; ValueError for another name."""
    if actions not in ACTIONS:
        raise ValueError(f"unknown actions {actions!r}: known are {', '.join(ACTIONS)}")
    return spaces.Discrete(NUM_ACTIONS) if actions == "chunk" else spaces.MultiDiscrete([NUM_ACTIONS] * latents)


def check_action(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the labels of an action, or of a batch of them, as int64 of a given shape; raises InvalidAction."""
    expected = " x ".join(map(str, shape)) + " whole numbers" if shape else "a whole number"
    error = InvalidAction(f"an action is {expected} 0..{NUM_ACTIONS - 1}, got {action!r}")
    try:
        labels = np.asarray(action)
    except (TypeError, ValueError) as ragged:
        raise error from ragged
    if any(isinstance(part, bool | np.bool_) for part in _parts(action)):  # which numpy takes for 0 or 1
        raise error
    if labels.dtype.kind not in "iu" or labels.shape != shape or labels.min() < 0 or labels.max() >= NUM_ACTIONS:
        raise error
    return labels.astype(np.int64)


def _parts(action: Any) -> Iterator[Any]:
    """Yield the numbers of nested lists and tuples."""
    if isinstance(action, list | tuple):
        for part in action:
            yield from _parts(part)
    else:
        yield action
