"""The moments of episodes, and batches of their observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from worldplay_env.worlds.base import Rollout


@dataclass(frozen=True, eq=False)
class Episode:
    """A moment of one episode, immutable: a step returns another one.

    Attributes:
        rollout: The episode's own rollout.
        observation: The newest observation: an array, a tensor, or a dict of them.
        path: float64 [T, 4, 4], the true poses of its latent frames, the start's first.
        step: Steps so far.
        frame: Frames so far.
        state: The task's state; None without a task.
        shown: The task's entries of observations, by name.
        pictures: uint8 [1 or more, height, width, 3], rendered frames, the newest last: with "all" the whole chunk's,
            with "newest" that one alone. None without rendering.
        ended: Whether it was terminated or truncated.
        start: The name of the start picture (`Start.name`).
    """

    rollout: Rollout
    observation: Any
    path: np.ndarray
    step: int = 0
    frame: int = 0
    state: Any = None
    shown: Mapping[str, Any] = field(default_factory=dict)
    pictures: np.ndarray | None = None
    ended: bool = False
    start: str = ""

    def fork(self) -> Self:
        """Return the same moment with a fork of its rollout; no tensor is copied."""
        return replace(self, rollout=self.rollout.fork())


@dataclass(frozen=True, eq=False)
class Stepped:
    """The results of a step of n episodes.

    Attributes:
        episodes: n new moments, none of them marked as ended.
        infos: n infos.
        timings: The world's seconds by part, added up over the batches of the step.
        rewards: float64 [n].
        terminations: bool [n], whether the task ends the episode.
        successes: bool [n], whether the step achieved the task.
    """

    episodes: list[Episode]
    infos: list[dict[str, Any]]
    timings: dict[str, float]
    rewards: np.ndarray
    terminations: np.ndarray
    successes: np.ndarray


def stack(rows: Sequence[Any]) -> Any:
    """Return a new batch [N, ...] of observations, which are arrays, tensors or dicts of them."""
    if isinstance(rows[0], Mapping):
        return {name: stack([row[name] for row in rows]) for name in rows[0]}
    if isinstance(rows[0], np.ndarray):
        return np.stack(rows)
    import torch

    return torch.stack(list(rows))


def split(batch: Any) -> list[Any]:
    """Return the rows of a batch [N, ...], which share its memory."""
    if isinstance(batch, Mapping):
        parts = {name: split(part) for name, part in batch.items()}
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
    return list(batch)


def compose(observation: Any, entries: Mapping[str, Any]) -> Any:
    """Return an observation, or a batch of them, with the task's entries if it has any."""
    return {"observation": observation, **entries} if entries else observation
