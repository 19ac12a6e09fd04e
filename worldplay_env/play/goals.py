"""Goals to come to, one after another, and how a walk stands to the one on show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldplay_env.envs.rewards import pose_error
from worldplay_env.envs.tasks.reach import Reach
from worldplay_env.envs.transition import Goal
from worldplay_env.worlds.base import Rollout, World


@dataclass(frozen=True)
class Aim:
    """How the walk on show stands to its goal.

    Attributes:
        picture: uint8 [height, width, 3], what is seen at the goal; None while it is looked for.
        steps: Chunks walked.
        left: Chunks that may still be walked.
        reached: Whether the last of them ended at the goal.
        distance: World units from there to the goal.
        angle: Degrees from there to the goal.
    """

    picture: np.ndarray | None
    steps: int
    left: int
    reached: bool = False
    distance: float = 0.0
    angle: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the walk has ended."""
        return self.reached or self.left == 0


class Goals:
    """The goals of a session: what they are follows from its seed, and from how many were reached before.

    Args:
        task: Draws and judges them.
        limit: Chunks within which each has to be reached.
        seed: Of the drawing.
    """

    def __init__(self, task: Reach, limit: int, seed: int) -> None:
        self.limit = limit
        self.goal: Goal | None = None
        """Where to go now; None until it is drawn."""
        self._task, self._seed, self._number = task, seed, 0

    def next(self) -> None:
        """Ask for another goal."""
        self._number += 1
        self.goal = None

    def draw(self, world: World, rollout: Rollout) -> None:
        """Find the goal that was asked for last, from a rollout that stays as it is.

        Raises:
            WorldError: No memory, or no goal.
        """
        number = self._number
        generator = np.random.default_rng([self._seed, number])
        [goal] = self._task.goals(world, [rollout], [generator], pictures=True)
        if number == self._number:
            self.goal = goal

    def over(self, rollout: Rollout) -> bool:
        """Return whether a rollout goes no further: it is at the goal, or has no steps left."""
        return self.aim(rollout.pose, rollout.chunks).over

    def aim(self, pose: np.ndarray | None, steps: int) -> Aim:
        """Return how a walk of so many chunks stands that has come to a pose [4, 4], or to None before the first."""
        picture, left = None if self.goal is None else self.goal.picture, max(0, self.limit - steps)
        if self.goal is None or pose is None:
            return Aim(picture, steps, left)
        distance, angle = pose_error(pose, self.goal.pose)
        reached = steps > 0 and self._task.is_reached(pose, self.goal)
        return Aim(picture, steps, left, reached, float(distance), float(angle))
