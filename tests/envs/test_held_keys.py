"""Held keys as actions: MultiBinary(8), of single envs and of vector envs."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import worldplay_env
from worldplay_env.envs.action_space import InvalidAction

FORWARD, BOTH_WAYS = [1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 1]


def make(**arguments: Any) -> gymnasium.Env:
    env = gymnasium.make("WorldPlay/Testcard-v0", actions="keys", disable_env_checker=True, **arguments)
    env.reset(seed=0)
    return env


def test_the_space_is_eight_keys() -> None:
    env = make()
    assert env.action_space == spaces.MultiBinary(8)
    assert env.action_space.contains(np.array(FORWARD, np.int8))


def test_keys_move_the_camera_as_their_label_does() -> None:
    by_keys, by_label = make(), gymnasium.make("WorldPlay/Testcard-v0", disable_env_checker=True)
    by_label.reset(seed=0)
    for keys, label in ((FORWARD, 9), (BOTH_WAYS, 1)):  # opposite keys cancel each other
        told, expected = by_keys.step(np.array(keys, np.int8)), by_label.step(label)
        assert np.array_equal(told[0], expected[0])
        assert np.array_equal(told[4]["poses"], expected[4]["poses"])
        assert np.array_equal(told[4]["labels"], expected[4]["labels"])


@pytest.mark.parametrize("action", [9, [1, 0], [2, 0, 0, 0, 0, 0, 0, 0], [1.0] * 8, [-1] * 8])
def test_what_are_no_keys_is_refused(action: object) -> None:
    with pytest.raises(InvalidAction, match=r"8 whole numbers 0\.\.1"):
        make().step(action)


def test_the_rows_of_a_vector_env_are_single_envs() -> None:
    envs = gymnasium.make_vec("WorldPlay/Testcard-v0", num_envs=2, actions="keys")
    envs.reset(seed=[0, 0])
    observations, _, _, _, infos = envs.step(np.array([FORWARD, BOTH_WAYS], np.int8))
    for row, keys in enumerate((FORWARD, BOTH_WAYS)):
        observation, _, _, _, info = make().step(np.array(keys, np.int8))
        assert np.array_equal(observations[row], observation)
        assert np.array_equal(infos["poses"][row], info["poses"])


def test_a_reward_sees_the_keys() -> None:
    seen: list[np.ndarray] = []

    def reward(step: worldplay_env.Transition) -> np.ndarray:
        seen.append(step.action)
        return np.zeros(len(step.action))

    make(reward=reward).step(np.array(FORWARD, np.int8))
    assert seen[0].tolist() == [FORWARD]
