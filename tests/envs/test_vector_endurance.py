"""Many episodes with random actions, resets at random moments and closed envs need no more memory than a few."""

from __future__ import annotations

import gc
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from envs import PAIRS

import worldplay_env
from worldplay_env.envs.core import Episode
from worldplay_env.envs.vector import AUTORESET_MODES, WorldPlayVectorEnv

ROWS = 4
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm"),
]


def resident_bytes() -> int:
    """Return the memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def episodes_alive() -> int:
    gc.collect()  # other tests' episodes may still wait for it
    return sum(type(one) is Episode for one in gc.get_objects())  # asking with isinstance runs some objects' code


def play_out(env: WorldPlayVectorEnv, generator: np.random.Generator, episodes: int) -> None:
    """Play at least so many episodes, each of which ends by its limit or is reset before, and close the env."""
    env.reset(seed=int(generator.integers(2**31)))
    begun = ROWS
    while begun < episodes:
        observations, _, terminations, truncations, _ = env.step(generator.integers(0, 81, ROWS))
        ended = terminations | truncations
        begun += int(ended.sum())
        mask = generator.random(ROWS) < 0.2
        if env.metadata["autoreset_mode"] is AUTORESET_MODES["disabled"]:
            mask |= ended
        if mask.any():
            observations, _ = env.reset(options={"reset_mask": mask})
            begun += int((mask & ~ended).sum())
        assert observations in env.observation_space
    env.close()


def growth(arguments: dict[str, Any], episodes: int, rounds: int) -> float:
    """Play episodes in rounds, an env for each; return by which part memory grew from a third of them to all."""
    generator = np.random.default_rng(0)
    used, before = [], episodes_alive()
    for round in range(rounds):
        mode = list(AUTORESET_MODES)[round % 3]
        env = WorldPlayVectorEnv(ROWS, **arguments, autoreset_mode=mode)
        play_out(env, generator, episodes // rounds)
        assert episodes_alive() <= before  # the env is still there, and holds none
        used.append(resident_bytes())
    return statistics.median(used[-3:]) / max(used[: rounds // 3]) - 1


def test_a_thousand_episodes_of_the_test_picture() -> None:
    world = worldplay_env.load("testcard", image_size=(32, 48))
    arguments = {"world": world, "starts": PAIRS, "max_episode_steps": 4, "task": "reach"}
    assert growth(arguments, episodes=1008, rounds=12) < 0.05


def test_fifty_episodes_of_the_embedded_world() -> None:
    world = worldplay_env.load("tiny", device="cpu")
    arguments = {"world": world, "observation": "last", "max_episode_steps": 3}
    assert growth(arguments, episodes=54, rounds=6) < 0.05
