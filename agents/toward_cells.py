"""A scripted agent for the task of collecting cells: it turns to the nearest cell left and walks there.

It reads "cells" of the observation, never the picture, and knows nothing of walls.

    python agents/toward_cells.py --world tiny
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

FORWARD = 1
RIGHT, LEFT = 1, 2
AHEAD = 6.0
"""Degrees off its direction at which a cell counts as straight ahead."""
WALKING = 45.0
"""Degrees off its direction up to which the agent walks while it turns."""


class TowardCellsAgent:
    """Turns to the nearest cell left, and walks once it is ahead.

    Args:
        env: An env or vector env with `task="collect"` and one action a chunk.

    Raises:
        ValueError: An env with another task or none, or with an action for each latent frame.
    """

    def __init__(self, env: AnyEnv) -> None:
        self.batched = isinstance(env.unwrapped, gym.vector.VectorEnv)
        actions, space = single_spaces(env)
        shows_cells = isinstance(space, gym.spaces.Dict) and "cells" in space.spaces
        if not shows_cells or not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f'the env needs task="collect" and one action a chunk, got {actions} and {space}')

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the next action; for a vector env one for each row, int64 [N]."""
        cells = np.asarray(obs["cells"])
        return np.array([_toward(row) for row in cells]) if self.batched else _toward(cells)


def _toward(cells: np.ndarray) -> int:
    """Return the action towards the nearest cell left, of rows (right, down, forward, 1 while it is left)."""
    left = cells[cells[:, 3] > 0]
    if not len(left):
        return 0
    right, _, forward, _ = left[np.argmin(np.linalg.norm(left[:, :3], axis=1))]
    bearing = np.degrees(np.arctan2(right, forward))
    rotation = 0 if abs(bearing) <= AHEAD else RIGHT if bearing > 0 else LEFT
    return worldplay_env.action_label(FORWARD if abs(bearing) <= WALKING else 0, rotation)


@dataclass(frozen=True)
class Args:
    """Collect the marked cells, and film the walk."""

    world: str = "scene"
    """Where: a name that `worldplay_env.load` knows, or a folder of weights."""
    steps: int = 18
    """Chunks of a second each, unless all cells are collected before."""
    seed: int = 0
    """Of the env."""
    out: Path = Path("outputs/toward_cells.mp4")
    """The film to write."""


def main() -> None:
    """Run one episode."""
    args = tyro.cli(Args, description=Args.__doc__)
    env = gym.make("WorldPlay/Collect-v0", world=args.world, observation="chunk")
    film_episode(
        env, TowardCellsAgent(env), seed=args.seed, steps=args.steps, path=args.out, describe=describe_action
    )


if __name__ == "__main__":
    main()
