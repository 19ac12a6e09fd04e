"""The task of reaching a view: a goal picture in the observation, success judged by the true pose.

A goal is what a world shows where a few held actions lead to from the start: so it can be reached, and every world
shows its own, a dream what it would dream there, a scene what is truly there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces

from worldplay_env.control.actions import NUM_ACTIONS, action_label
from worldplay_env.envs.observation import ObservationEncoder
from worldplay_env.envs.rewards import check_arrival, pose_error, reach_reward, reached
from worldplay_env.envs.transition import Goal, Transition
from worldplay_env.worlds.base import CHUNK_LATENTS, Control, Rollout, World, WorldError
from worldplay_env.worlds.transfer import fetch

TASKS = ("reach",)
"""The names that `Reach.of` knows."""
TRIES = 16
"""How often goals are drawn for a start before it is given up: one that is reached already is drawn again."""

_FORWARD, _YAW_RIGHT, _YAW_LEFT = action_label(1, 0), action_label(0, 1), action_label(0, 2)
_FORWARD_RIGHT, _FORWARD_LEFT = action_label(1, 1), action_label(1, 2)


@dataclass(frozen=True)
class Reach:
    """The task: come to where the goal picture was seen. Fields are plain data, so that specs can hold them.

    An env with it shows a dict: "observation", as without a task, and "goal", the goal's picture as one frame of the
    observation, or its latent frame. An episode terminates when it ends a step at the goal.

    Attributes:
        distance: World units from the goal's pose within which it is reached.
        angle: Degrees from the goal's pose within which it is reached.
        chunks: The fewest and the most held actions that goals are away from the start.
        reward: "dense" for the progress of each step, in world units and radians, and 1 at the goal; "sparse" for the
            1 alone.
        actions: The labels that goals are drawn from; by default forward, yaw right, yaw left, and forward with
            either. Agents may use any.
    """

    distance: float = 0.25
    angle: float = 10.0
    chunks: tuple[int, int] = (2, 4)
    reward: str = "dense"
    actions: tuple[int, ...] = (_FORWARD, _YAW_RIGHT, _YAW_LEFT, _FORWARD_RIGHT, _FORWARD_LEFT)

    def __post_init__(self) -> None:
        check_arrival(self.distance, self.angle, self.reward)
        for name in ("chunks", "actions"):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        if len(self.chunks) != 2 or not 1 <= self.chunks[0] <= self.chunks[1]:
            raise ValueError(f"chunks must be the fewest and the most, 1 or more, got {self.chunks}")
        if not self.actions or min(self.actions) < 0 or max(self.actions) >= NUM_ACTIONS:
            raise ValueError(f"actions must be labels 0..{NUM_ACTIONS - 1}, at least one, got {self.actions}")
        if not any(self.actions):
            raise ValueError("actions must hold one that moves: goals would be where the episode starts")

    @classmethod
    def of(cls, task: str | Mapping[str, Any] | Reach | None) -> Reach | None:
        """Return the task that an env is asked for: "reach", a mapping of this class's fields, a `Reach`, or None.

        Raises:
            ValueError: An unknown name or field, or a field that cannot be.
            TypeError: Anything else.
        """
        if task is None or isinstance(task, Reach):
            return task
        if isinstance(task, Mapping):
            known = [field.name for field in fields(cls)]
            if unknown := [name for name in task if name not in known]:
                raise ValueError(f"unknown field {unknown[0]!r} of a task: known are {', '.join(known)}")
            return cls(**task)
        if not isinstance(task, str):
            raise TypeError(f'a task is "reach", a mapping of its fields or a Reach, got {task!r}')
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}: known are {', '.join(TASKS)}")
        return cls()

    def space(self, view: ObservationEncoder) -> spaces.Dict:
        """Return the observation space of an env that shows chunks by `view`."""
        return spaces.Dict({"observation": view.space, "goal": view.goal_space})

    def goals(
        self, world: World, rollouts: Sequence[Rollout], generators: Sequence[np.random.Generator], *, pictures: bool
    ) -> list[Goal]:
        """Draw a goal for each of N rollouts that have not been stepped, which stay as they are.

        Args:
            world: Of the rollouts.
            rollouts: Where the goals are reached from.
            generators: Each draws the actions that lead to its own rollout's goal: no goal depends on the others.
            pictures: Whether goals have pictures.

        Raises:
            WorldError: No memory, or only goals that are where the rollout starts.
        """
        found: dict[int, Goal] = {}
        for _ in range(TRIES):
            pending = [index for index in range(len(rollouts)) if index not in found]
            if not pending:
                break
            plans = [self._draw(generators[index]) for index in pending]
            goals = _play(world, [rollouts[index].fork() for index in pending], plans, pictures=pictures)
            for index, goal in zip(pending, goals, strict=True):
                if not self.is_reached(rollouts[index].pose, goal):
                    found[index] = goal
        if len(found) < len(rollouts):
            raise WorldError(
                f"no goal was found: {TRIES} draws of {self.chunks[0]} to {self.chunks[1]} actions of {self.actions} "
                f"led to within {self.distance} units and {self.angle} degrees of the start; give the task more "
                "chunks, other actions, or less room for success"
            )
        return [found[index] for index in range(len(rollouts))]

    def is_reached(self, pose: np.ndarray, goal: Goal) -> bool:
        """Return whether a camera-to-world matrix [4, 4] is at the goal."""
        distance, angle = pose_error(pose, goal.pose)
        return bool(distance <= self.distance and angle <= self.angle)

    def observe(self, observation: Any, goal: Any) -> dict[str, Any]:
        """Return what an env with the task shows: an observation and the goal (`ObservationEncoder.of_goals`)."""
        return {"observation": observation, "goal": goal}

    def success(self, transition: Transition) -> np.ndarray:
        """Return which of N worlds ended the step at their goals: bool [N]."""
        return reached(transition, _poses(transition), self.distance, self.angle)

    def score(self, transition: Transition) -> np.ndarray:
        """Return the task's own rewards: float64 [N]."""
        goals = _poses(transition)
        return reach_reward(transition, goals, distance=self.distance, angle=self.angle, reward=self.reward)

    def info(self, goal: Goal, success: bool) -> dict[str, Any]:
        """Return what an env with the task adds to the info of one world."""
        # Stable-Baselines3 averages "is_success".
        return {"success": bool(success), "is_success": bool(success), "goal_pose": goal.pose.copy()}

    def _draw(self, generator: np.random.Generator) -> list[int]:
        """Return the actions that lead to a goal, each held for a chunk."""
        length = int(generator.integers(self.chunks[0], self.chunks[1] + 1))
        return [self.actions[int(index)] for index in generator.integers(len(self.actions), size=length)]


def _play(world: World, rollouts: list[Rollout], plans: list[list[int]], *, pictures: bool) -> list[Goal]:
    """Play each rollout's own actions, all in one batch, and return where that led."""
    goals: dict[int, Goal] = {}
    for step in range(max(map(len, plans))):
        playing = [index for index, plan in enumerate(plans) if step < len(plan)]
        group = [rollouts[index] for index in playing]
        controls = [
            Control.of_labels(rollout.pose, [plans[index][step]] * CHUNK_LATENTS, first=rollout.chunks == 0)
            for index, rollout in zip(playing, group, strict=True)
        ]
        chunks = world.step(group, controls, decode="newest" if pictures else False)
        for index, chunk in zip(playing, chunks, strict=True):
            if step + 1 == len(plans[index]):
                picture = None if chunk.frames is None else fetch(chunk.frames[-1], own=True)
                latent = None if chunk.latents is None else fetch(chunk.latents[:, -1:].float(), own=True)
                goals[index] = Goal(chunk.poses[-1].copy(), picture, latent)
    return [goals[index] for index in range(len(plans))]


def _poses(transition: Transition) -> np.ndarray:
    """Return the goals' poses, float64 [N, 4, 4]."""
    assert transition.goals is not None  # an env with a task always has them
    return np.stack([goal.pose for goal in transition.goals])


def _whole_numbers(name: str, values: Any) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"{name} must be a list of whole numbers, got {values!r}")
    if any(isinstance(value, bool) or not isinstance(value, int | np.integer) for value in values):
        raise ValueError(f"{name} must be whole numbers, got {values!r}")
    return tuple(int(value) for value in values)
