"""Pictures, episodes and films for the tests of wrappers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import envs
import gymnasium
import numpy as np
from envs import episode
from films import read_film
from PIL import Image

from worldplay_env.worlds.testcard import frame_number

COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
# Smooth pictures, which a film keeps nearly as they are.
PAIRS = [(np.array(Image.fromarray(one).resize((160, 96), Image.Resampling.BICUBIC)), "") for one in COLOURS]
bare, make = (functools.partial(function, starts=PAIRS) for function in (envs.bare, envs.make))

ACTIONS = [9, 1, 20]
"""Three chunks: forward, a turn, and both ways at once."""


def frames_of(seed: int = 0, actions: list[int] = ACTIONS, **arguments: Any) -> np.ndarray:
    """Return every frame that the chunks of an episode have, by the env alone."""
    results = episode(bare(**arguments), actions, seed)[1:]
    shown = [
        observation["observation"] if isinstance(observation, dict) else observation for observation, *_ in results
    ]
    return np.concatenate([one[-result[-1]["new_frames"] :] for one, result in zip(shown, results, strict=True)])


def play(env: gymnasium.Env[Any, Any], actions: list[int] = ACTIONS, seed: int = 0) -> list[tuple[Any, ...]]:
    """Hold each action until its chunk has been shown, or the episode ends; return what the steps returned."""
    env.reset(seed=seed)
    results: list[tuple[Any, ...]] = []
    for action in actions:
        results.append(env.step(action))
        while env.get_wrapper_attr("frames_left"):
            results.append(env.step(action))
    return results


def same_film(path: Path, frames: np.ndarray) -> bool:
    """Return whether a film has these frames, in their order, up to its compression."""
    film = read_film(path).frames
    assert [frame_number(frame) for frame in film] == [frame_number(frame) for frame in frames]
    return bool(np.abs(film.astype(int) - frames).mean() < 4)
