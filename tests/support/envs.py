"""Envs over the test picture, for tests of what an env does around any world."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from worldplay_env import WorldPlayEnv

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
PAIRS = [(picture, f"picture {index}") for index, picture in enumerate(PICTURES)]
PLACES = [(None, f"scene {900_011 + index}") for index in range(3)]
"""Starts of the rendered scenes, which begin from no picture."""


def starts_of(id: str) -> list[tuple[Any, str]]:
    """Return starts that the world of a registered env can use."""
    return PLACES if gymnasium.spec(id).kwargs["world"] == "scene" else PAIRS


def make(id: str = "WorldPlay/Testcard-v0", **arguments: Any) -> gymnasium.Env:
    return gymnasium.make(id, **{"starts": starts_of(id), **arguments})


def bare(**arguments: Any) -> WorldPlayEnv:
    """Return an env without wrappers over the test picture."""
    return WorldPlayEnv(**{"world": "testcard", "starts": PAIRS, **arguments})


def episode(env: gymnasium.Env, actions: list[Any], seed: int = 0) -> list[tuple[Any, ...]]:
    """Return what reset and each step gave."""
    return [env.reset(seed=seed), *(env.step(action) for action in actions)]
