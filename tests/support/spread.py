"""Work for Ray's actors, and the same work in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import small_world
import torch

import worldplay_env
from worldplay_env.workers import open_workers
from worldplay_env.worlds.base import Start, World

SIZE = (16, 24)


def card(seconds_per_chunk: float = 0.0) -> World:
    return worldplay_env.load("testcard", image_size=SIZE, seconds_per_chunk=seconds_per_chunk)


def frames_of(world: World, seed: int) -> np.ndarray:
    """Return the film of a rollout of two chunks: uint8 [29, H, W, 3]."""
    rollout = world.start(Start(), seed)
    path = small_world.wander(2, seed)
    frames = [chunk.frames for control in path for chunk in world.step([rollout], [control])]
    return torch.cat([frame for frame in frames if frame is not None]).numpy()


def alone(make: Callable[[], Any], work: Callable[[Any, int], Any], keys: range) -> list[Any]:
    """Return what plain calls in this process give, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        held = make()
        return [work(held, key) for key in keys]
    finally:
        torch.set_num_threads(threads)


def with_workers(
    count: int | None, make: Callable[[], Any], work: Callable[[Any, int], Any], keys: range
) -> list[Any]:
    """Return the same from workers, in the order of the keys."""
    with open_workers(make, count) as workers:
        pairs = list(workers.stream(work, keys))
    results = dict(pairs)
    assert len(pairs) == len(results) == len(keys)  # each key once
    return [results[key] for key in keys]


def make_env() -> gym.Env[Any, Any]:
    return gym.make("WorldPlay/Testcard-v0", world=card(), observation="last", max_episode_steps=3)


class Drifter:
    """Goes where what it sees, its seed and the steps so far send it."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def act(self, obs: np.ndarray, info: dict[str, Any]) -> int:
        return int(obs.sum() + info["step"] + self.random.integers(81)) % 81
