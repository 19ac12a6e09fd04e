"""Code that several agents share: their small set of actions, the spaces of one env, and the film of an episode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import worldplay_env

WALK_AND_TURN = tuple(
    worldplay_env.action_label(translation, rotation)
    for translation in (0, 1, 2)  # none, forward, back
    for rotation in (0, 1, 2)  # none, yaw right, yaw left
    if translation or rotation
)
"""Eight of the 81 labels: enough to reach any place on a floor and to face any direction there."""

AnyEnv = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]


def single_spaces(env: AnyEnv) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Return the action space and the observation space of one env, or of one row of a vector env."""
    inner: Any = env.unwrapped
    if isinstance(inner, gym.vector.VectorEnv):
        return inner.single_action_space, inner.single_observation_space
    return inner.action_space, inner.observation_space


def film_episode(
    env: gym.Env[Any, Any],
    agent: Any,
    *,
    seed: int,
    steps: int,
    path: Path,
    describe: Callable[[Any, dict[str, Any]], str],
    beside_goal: bool = False,
) -> None:
    """Run one episode, print a line a step and write the film; close the env.

    Args:
        env: Made with `observation="chunk"`.
        agent: Has `act(obs, info)`.
        seed: Of the reset.
        steps: The most steps; the episode may end before.
        path: Of the film.
        describe: Called with a step's action and info, returns its line.
        beside_goal: Show the goal picture at the right of every frame.
    """
    obs, info = env.reset(seed=seed)
    with worldplay_env.FilmWriter(path, env.get_wrapper_attr("fps")) as film:
        for step in range(steps):
            action = agent.act(obs, info)
            obs, _, terminated, truncated, info = env.step(action)
            frames = (obs["observation"] if isinstance(obs, dict) else obs)[-info["new_frames"] :]
            if beside_goal:
                frames = np.concatenate([frames, np.broadcast_to(obs["goal"], frames.shape)], axis=2)
            film.write(frames)
            achieved = ", achieved the task" if terminated else ""
            print(f"step {step}: {describe(action, info)}{achieved}")
            if terminated or truncated:
                break
    env.close()
    print(path)


def describe_action(action: Any, info: dict[str, Any]) -> str:
    """Return the name of an action of one label, as `film_episode` prints it."""
    return worldplay_env.action_name(int(action))
