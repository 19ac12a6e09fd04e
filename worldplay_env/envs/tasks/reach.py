"""The task of reaching a view: observations show a goal picture, and the true pose decides success.

A goal is the view at the end of a few held actions from the start, so it is always within reach. Each world shows its
own: a dream what it would dream there, a scene what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from worldplay_env.control.actions import action_label
from worldplay_env.envs.observation import ObservationEncoder
from worldplay_env.envs.rewards import check_arrival, pose_error, reach_reward, reached
from worldplay_env.envs.tasks.base import Task, from_fields
from worldplay_env.envs.tasks.walks import TRIES, Walk, check_labels, draw_each, walk, whole_numbers
from worldplay_env.envs.transition import Goal, Transition
from worldplay_env.worlds.base import Rollout, World, WorldError
from worldplay_env.worlds.transfer import fetch

if TYPE_CHECKING:
    import torch

_FORWARD, _YAW_RIGHT, _YAW_LEFT = action_label(1, 0), action_label(0, 1), action_label(0, 2)
_FORWARD_RIGHT, _FORWARD_LEFT = action_label(1, 1), action_label(1, 2)


@dataclass(frozen=True)
class Reach(Task[Goal]):
    """Reach the pose at which the goal picture was seen.

    Observations are a dict: "observation", as without a task, and "goal", the goal's picture as one more frame, or
    with `observation="latent"` its latent frame. A step that ends at the goal terminates the episode. Fields are
    plain data, so that an env's spec can be written as JSON.

    Attributes:
        distance: World units from the goal's pose within which it is reached.
        angle: Degrees from the goal's pose within which it is reached.
        chunks: The fewest and the most held actions from the start to a goal.
        reward: "dense" for the progress of each step, in world units and radians, and 1 at the goal; "sparse" for the
            1 alone.
        actions: The labels that goals are drawn from; by default forward, yaw right, yaw left, and forward with
            either. Agents may use any.
    """

    state_type: ClassVar[type] = Goal

    distance: float = 0.25
    angle: float = 10.0
    chunks: tuple[int, int] = (2, 4)
    reward: str = "dense"
    actions: tuple[int, ...] = (_FORWARD, _YAW_RIGHT, _YAW_LEFT, _FORWARD_RIGHT, _FORWARD_LEFT)

    def __post_init__(self) -> None:
        check_arrival(self.distance, self.angle, self.reward)
        chunks = whole_numbers("chunks", self.chunks)
        if len(chunks) != 2 or not 1 <= chunks[0] <= chunks[1]:
            raise ValueError(f"chunks must be the fewest and the most, 1 or more, got {chunks}")
        object.__setattr__(self, "chunks", chunks)
        object.__setattr__(self, "actions", check_labels(self.actions))

    @classmethod
    def of(cls, task: str | Mapping[str, Any] | Reach | None) -> Reach | None:
        """Return a `Reach` from "reach", a mapping of its fields, a `Reach`, or None for None.

        Raises:
            ValueError: An unknown name or field, or a value that is refused.
            TypeError: An argument of another type.
        """
        if task is None or isinstance(task, Reach):
            return task
        if isinstance(task, Mapping):
            return from_fields(cls, task)
        if not isinstance(task, str):
            raise TypeError(f'a task is "reach", a mapping of its fields or a Reach, got {task!r}')
        if task != "reach":
            raise ValueError(f"unknown task {task!r}: known are reach")
        return cls()

    def space(self, view: ObservationEncoder) -> spaces.Dict:
        """Return the space of the chunk's observation and the goal."""
        return spaces.Dict({"observation": view.space, "goal": view.goal_space})

    def begin(
        self, world: World, rollouts: Sequence[Rollout], generators: Sequence[np.random.Generator], *, pictures: bool
    ) -> list[Goal]:
        """Draw goals; see `goals`."""
        return self.goals(world, rollouts, generators, pictures=pictures)

    def goals(
        self, world: World, rollouts: Sequence[Rollout], generators: Sequence[np.random.Generator], *, pictures: bool
    ) -> list[Goal]:
        """Draw a goal for each of N rollouts at their start, which stay as they are.

        Args:
            world: The rollouts' world.
            rollouts: Where the goals are reached from.
            generators: Each draws the actions to its own rollout's goal: no goal depends on the others.
            pictures: Whether goals have pictures.

        Raises:
            WorldError: Out of memory, or each goal drawn was reached at the start.
        """

        def draw(pending: list[int]) -> list[Goal | None]:
            plans = [self._draw(generators[index]) for index in pending]
            walks = walk(world, [rollouts[index] for index in pending], plans, "newest" if pictures else False)
            drawn = [_goal(one) for one in walks]
            return [
                None if self.is_reached(rollouts[index].pose, goal) else goal
                for index, goal in zip(pending, drawn, strict=True)
            ]

        if (found := draw_each(len(rollouts), draw)) is None:
            raise WorldError(
                f"no goal was found: {TRIES} draws of {self.chunks[0]} to {self.chunks[1]} actions of {self.actions} "
                f"led to within {self.distance} units and {self.angle} degrees of the start; give the task more "
                "chunks, other actions, or less room for success"
            )
        return found

    def is_reached(self, pose: np.ndarray, goal: Goal) -> bool:
        """Return whether a camera-to-world matrix [4, 4] is at the goal."""
        distance, angle = pose_error(pose, goal.pose)
        return bool(distance <= self.distance and angle <= self.angle)

    def observe(self, states: Sequence[Goal], view: ObservationEncoder, device: torch.device) -> dict[str, Any]:
        """Return the goals' pictures or latent frames."""
        return {"goal": view.of_goals(states, device)}

    def score(self, transition: Transition) -> np.ndarray:
        """Return the progress of N worlds and 1 at the goal, or the 1 alone: float64 [N]."""
        goals = _poses(transition)
        return reach_reward(transition, goals, distance=self.distance, angle=self.angle, reward=self.reward)

    def success(self, transition: Transition) -> np.ndarray:
        """Return which of N worlds ended the step at their goals: bool [N]."""
        return reached(transition, _poses(transition), self.distance, self.angle)

    def info(self, state: Goal, success: bool) -> dict[str, Any]:
        """Return "success", "is_success" and "goal_pose", float64 [4, 4]."""
        return {**super().info(state, success), "goal_pose": state.pose.copy()}

    def check(self, state: Any, view: ObservationEncoder) -> None:
        """Check that a snapshot has a goal with a picture, or with a latent where `view` shows latents."""
        needed = "latent" if view.kind == "latent" else "picture"
        if not isinstance(state, Goal) or getattr(state, needed) is None:
            raise ValueError(
                f"the snapshot's goal has no {needed}: take it in an env with the same task and observation"
            )

    def goal(self, state: Goal) -> Goal:
        """Return the goal, which is the state."""
        return state

    def picture(self, state: Goal) -> np.ndarray | None:
        """Return the goal's picture."""
        return state.picture

    def caption(self, state: Goal, *, ended: bool, success: bool) -> str:
        """Return where the goal is shown, or whether it was reached."""
        return ("reached" if success else "not reached") if ended else "the goal is at the right"

    def _draw(self, generator: np.random.Generator) -> list[int]:
        """Return the actions to a goal, each held for a chunk."""
        length = int(generator.integers(self.chunks[0], self.chunks[1] + 1))
        return [self.actions[int(index)] for index in generator.integers(len(self.actions), size=length)]


def _goal(walked: Walk) -> Goal:
    """Return the end of a walk as a goal."""
    chunk = walked.chunk
    picture = None if chunk.frames is None else fetch(chunk.frames[-1], own=True)
    latent = None if chunk.latents is None else fetch(chunk.latents[:, -1:].float(), own=True)
    return Goal(chunk.poses[-1].copy(), picture, latent)


def _poses(transition: Transition) -> np.ndarray:
    """Return the goals' poses, float64 [N, 4, 4]."""
    assert transition.goals is not None  # an env with this task always has them
    return np.stack([goal.pose for goal in transition.goals])
