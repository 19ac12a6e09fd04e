"""Walks of held actions through a world, from which tasks draw aims that are within reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from worldplay_env.control.actions import NUM_ACTIONS, are_labels
from worldplay_env.envs.rewards import append_poses, start_path
from worldplay_env.worlds.base import Chunk, Decode, Rollout, World
from worldplay_env.worlds.follow import next_control

T = TypeVar("T")
TRIES = 16
"""How many times an aim is drawn before a task gives up."""


@dataclass(frozen=True, eq=False)
class Walk:
    """A walk of one rollout.

    Attributes:
        path: float64 [T, 4, 4], the true camera-to-world matrices of its latent frames, the start's first.
        chunk: The last chunk.
    """

    path: np.ndarray
    chunk: Chunk


def walk(world: World, rollouts: Sequence[Rollout], plans: Sequence[Sequence[int]], decode: Decode) -> list[Walk]:
    """Play a plan from each of N rollouts, in one batch; the rollouts stay as they are.

    Args:
        world: The rollouts' world.
        rollouts: Where the walks begin.
        plans: For each rollout the labels of its actions, each held for a chunk.
        decode: See `World.step`.
    """
    forks = [rollout.fork() for rollout in rollouts]
    paths = [start_path(rollout.pose) for rollout in rollouts]
    last: dict[int, Chunk] = {}
    for step in range(max(map(len, plans))):
        playing = [index for index, plan in enumerate(plans) if step < len(plan)]
        group = [forks[index] for index in playing]
        controls = [next_control(rollout, plans[index][step]) for index, rollout in zip(playing, group, strict=True)]
        for index, chunk in zip(playing, world.step(group, controls, decode=decode), strict=True):
            paths[index], last[index] = append_poses(paths[index], chunk.poses), chunk
    return [Walk(path, last[index]) for index, path in enumerate(paths)]


def draw_each(count: int, draw: Callable[[list[int]], Sequence[T | None]]) -> list[T] | None:
    """Draw an aim for each of `count` episodes, again where a draw gave None; return None after `TRIES` draws.

    Args:
        count: Of episodes.
        draw: Returns one draw for each of the indices that it is given.
    """
    found: dict[int, T] = {}
    for _ in range(TRIES):
        pending = [index for index in range(count) if index not in found]
        if not pending:
            break
        for index, drawn in zip(pending, draw(pending), strict=True):
            if drawn is not None:
                found[index] = drawn
    return [found[index] for index in range(count)] if len(found) == count else None


def check_labels(actions: Any) -> tuple[int, ...]:
    """Return the labels to draw plans from.

    Raises:
        ValueError: They are no list of labels, or none of them moves the camera.
    """
    labels = whole_numbers("actions", actions)
    if not labels or not are_labels(np.array(labels)):
        raise ValueError(f"actions must be labels 0..{NUM_ACTIONS - 1}, at least one, got {labels}")
    if not any(labels):
        raise ValueError("actions must hold one that moves: goals would be where the episode starts")
    return labels


def whole_numbers(name: str, values: Any) -> tuple[int, ...]:
    """Return a list of whole numbers as a tuple; ValueError for anything else."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"{name} must be a list of whole numbers, got {values!r}")
    if any(isinstance(value, bool) or not isinstance(value, int | np.integer) for value in values):
        raise ValueError(f"{name} must be whole numbers, got {values!r}")
    return tuple(int(value) for value in values)
