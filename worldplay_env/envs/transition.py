"""The input of rewards and tasks: the transition of N worlds, and their goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from worldplay_env.summary import one_line
from worldplay_env.worlds.base import Chunk

if TYPE_CHECKING:
    import torch


KINDS = ("dense", "sparse")
"""A reward for progress and for reaching the goal, or for reaching it alone."""
SPACES = ("pixels", "latents")
"""The spaces in which views are compared."""


class RewardError(ValueError):
    """A reward function raised, or did not return one finite number for each world; the env is unchanged."""


@dataclass(frozen=True, eq=False)
class Goal:
    """The place that an episode should reach.

    Attributes:
        pose: float64 [4, 4], a camera-to-world matrix.
        picture: uint8 [height, width, 3], the view there in the world's own size; None if it was not decoded.
        latent: float32 [channels, 1, rows, columns], the view as a latent frame; None for a world without latents.

    The arrays become read-only, since the steps of an episode share its goal.
    """

    pose: np.ndarray
    picture: np.ndarray | None
    latent: np.ndarray | None

    __repr__ = one_line

    def __post_init__(self) -> None:
        for array in (self.pose, self.picture, self.latent):
            if array is not None:
                array.flags.writeable = False


@dataclass(frozen=True, eq=False)
class Transition:
    """One step of N worlds.

    Attributes:
        observation: The N new observations, stacked, as the env returns them (of a single env, N = 1): an array, a
            tensor with `output="torch"`, or a dict of them where the env has a task.
        action: int64 [N], with `actions="latent"` [N, 4], with `actions="keys"` [N, 8].
        poses: float64 [N, 4, 4, 4], the true camera-to-world matrices of the new chunk's latent frames.
        past: N of float64 [T, 4, 4]: the true poses of each episode's latent frames before this chunk, the start's
            first; T is 1 before the first step, whose chunk shows the start's pose again, then 4, 8, 12, ...
        step: int64 [N], steps of each episode, this one included.
        goals: The N goals, where the env's task has places to reach ("reach").
        frames: uint8 [N, height, width, 3], the newest frame of each, in the world's own size and on its device; None
            if the chunks were not decoded.
        latents: float32 [N, channels, 4, rows, columns], on the device; None for a world without latents.
        states: The task's state of each world before the step (`Task.begin`, `Task.advance`); None without a task.
    """

    observation: Any
    action: np.ndarray
    poses: np.ndarray
    past: Sequence[np.ndarray]
    step: np.ndarray
    goals: Sequence[Goal] | None
    frames: torch.Tensor | None
    latents: torch.Tensor | None
    states: Sequence[Any] | None = None

    __repr__ = one_line

    @classmethod
    def of_chunks(
        cls,
        chunks: Sequence[Chunk],
        *,
        observation: Any,
        action: np.ndarray,
        past: Sequence[np.ndarray],
        step: np.ndarray,
        goals: Sequence[Goal] | None,
        states: Sequence[Any] | None = None,
    ) -> Transition:
        """Return the transition of N worlds from their new chunks."""
        import torch

        frames = [chunk.frames[-1] for chunk in chunks if chunk.frames is not None]
        latents = [chunk.latents for chunk in chunks if chunk.latents is not None]
        return cls(
            observation=observation,
            action=action,
            poses=np.stack([chunk.poses for chunk in chunks]),
            past=past,
            step=step,
            goals=goals,
            frames=torch.stack(frames) if frames else None,
            latents=torch.stack(latents) if latents else None,
            states=states,
        )


Reward = Callable[[Transition], Any]
"""A reward function: a transition of N worlds -> N numbers (an array, a tensor on any device or a sequence); of one
world -> these, or a plain number."""
