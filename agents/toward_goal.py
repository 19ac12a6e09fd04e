"""A scripted agent that goes straight to the known pose of the goal: an upper baseline without vision.

PPO and the planner are compared with it: they get a picture of the goal and must find the way. It looks one step
ahead and ignores walls.

    python agents/toward_goal.py --world scene
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import tyro

import worldplay_env
from common import AnyEnv, describe_action, film_episode, single_spaces


class TowardGoalAgent:
    """Takes the action that leaves the least of the way to the goal's pose: world units plus radians.

    Args:
        env: An env or vector env with a task and one action a chunk.
        labels: The actions to choose from; by default all.

    Raises:
        ValueError: An env without a task, or with an action for each latent frame.
    """

    def __init__(
        self,
        env: AnyEnv,
        labels: tuple[int, ...] = tuple(range(worldplay_env.NUM_ACTIONS)),
    ) -> None:
        inner: Any = env.unwrapped
        self.batched = isinstance(inner, gym.vector.VectorEnv)
        actions, space = single_spaces(env)
        shows_goal = isinstance(space, gym.spaces.Dict) and "goal" in space.spaces
        if not shows_goal or not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f"the env needs a task and one action a chunk, got {actions} and {space}")
        self.labels = np.array(labels)
        # The first chunk has one motion less than later ones, since it begins with the start.
        self.moves = {first: np.stack([_move(inner, label, first) for label in labels]) for first in (True, False)}

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the next action; of a vector env's infos one for each, int64 [N]."""
        if not self.batched:
            return int(self._nearest(info["poses"][-1], info["goal_pose"], info["step"]))
        rows = zip(info["poses"][:, -1], info["goal_pose"], info["step"], strict=True)
        return np.array([self._nearest(pose, goal, step) for pose, goal, step in rows])

    def _nearest(self, pose: np.ndarray, goal: np.ndarray, step: int) -> Any:
        there = pose @ self.moves[bool(step == 0)]  # [actions, 4, 4]
        units = np.linalg.norm(there[:, :3, 3] - goal[:3, 3], axis=1)
        traces = np.einsum("aij, ij -> a", there[:, :3, :3], goal[:3, :3])  # of the turns that are left
        return self.labels[np.argmin(units + np.arccos(np.clip((traces - 1) / 2, -1, 1)))]


def _move(env: Any, label: int, first: bool) -> np.ndarray:
    """Return where an action leads to from the origin, float64 [4, 4]."""
    held = [label] * env.layout.latents
    return worldplay_env.Control.of_labels(np.eye(4), held, first=first, motion=env.motion).poses[-1]


@dataclass(frozen=True)
class Args:
    """Go to the pose of the goal, and film it."""

    world: str = "tiny"
    """Where: a name that `worldplay_env.load` knows, or a folder of weights."""
    steps: int = 12
    """Chunks of a second each, unless it arrives before."""
    seed: int = 0
    """Of the env."""
    out: Path = Path("outputs/toward_goal.mp4")
    """The film to write: what is seen, and beside it the goal."""


def main() -> None:
    """Run one episode."""
    args = tyro.cli(Args, description=Args.__doc__)
    env = gym.make("WorldPlay/Reach-v0", world=args.world, observation="chunk")
    agent = TowardGoalAgent(env)
    film_episode(
        env, agent, seed=args.seed, steps=args.steps, path=args.out, describe=describe_action, beside_goal=True
    )


if __name__ == "__main__":
    main()
