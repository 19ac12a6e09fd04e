"""Vector envs for tests, beside what Gymnasium makes of single envs with the same arguments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from envs import PAIRS
from gymnasium.vector import SyncVectorEnv
from small_world import CONFIG, TEXT_TOKENS, small_world

from worldplay_env.envs.vector import AUTORESET_MODES, WorldPlayVectorEnv
from worldplay_env.worlds.base import Start
from worldplay_env.worlds.diffusion.rollout import DiffusionRollout
from worldplay_env.worlds.diffusion.world import DiffusionWorld

NEAR = {"task": {"distance": 0.8, "angle": 30.0, "chunks": (3, 4), "reward": "dense"}}
"""A task that random actions reach now and then."""
MODES = tuple(AUTORESET_MODES)


class SmallDream(DiffusionWorld):
    """The small world of random weights, every prompt of which has one embedding."""

    def start(self, start: Start, seed: int, **others: Any) -> DiffusionRollout:
        embedding = torch.randn(TEXT_TOKENS, CONFIG.transformer.text_dim, generator=torch.Generator().manual_seed(0))
        return super().start(start, seed, prompt_embedding=embedding)


def small_dream() -> SmallDream:
    world = small_world()
    return SmallDream(CONFIG, world.transformer, world.codec)


def batched(num_envs: int = 3, **arguments: Any) -> WorldPlayVectorEnv:
    """Return a vector env over the test picture."""
    return WorldPlayVectorEnv(num_envs, **{"world": "testcard", "starts": PAIRS, **arguments})


def single(world: Any = "testcard", **arguments: Any) -> gymnasium.Env:
    """Return a single env with a time limit, as a row of `batched` has."""
    return gymnasium.make("WorldPlay/Testcard-v0", **{"starts": PAIRS, "world": world, **arguments})


def synchronous(num_envs: int = 3, autoreset_mode: str = "next_step", **arguments: Any) -> SyncVectorEnv:
    """Return Gymnasium's own vector env of single envs."""
    return SyncVectorEnv([lambda: single(**arguments)] * num_envs, autoreset_mode=AUTORESET_MODES[autoreset_mode])


def without_words(info: dict[str, Any]) -> dict[str, Any]:
    """Return an info without what a vector env has as properties."""
    words = ("start", "_start", "prompt", "_prompt")
    return {
        name: without_words(value) if isinstance(value, dict) else value
        for name, value in info.items()
        if name not in words
    }


def play(env: gymnasium.vector.VectorEnv, steps: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """Return what a reset, random actions and, without autoreset, the masked resets of ended rows gave.

    The infos are `without_words`.
    """
    results = [env.reset(seed=seed)]
    env.action_space.seed(seed)
    for _ in range(steps):
        _, _, terminations, truncations, _ = result = env.step(env.action_space.sample())
        results.append(result)
        ended = np.logical_or(terminations, truncations)
        if env.metadata["autoreset_mode"] is AUTORESET_MODES["disabled"] and ended.any():
            results.append(env.reset(options={"reset_mask": ended}))
    return [(*result, without_words(info)) for *result, info in results]
