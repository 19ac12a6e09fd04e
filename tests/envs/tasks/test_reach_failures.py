"""The task of reaching a view: snapshots, failures, and fields that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from envs import PAIRS, bare, episode
from gymnasium.utils.env_checker import data_equivalence

import worldplay_env
from worldplay_env import WorldPlayEnv

# Moments


def test_a_snapshot_keeps_its_goal() -> None:
    env = bare(task="reach", observation="last", size=(24, 40))
    first, info = env.reset(seed=0)
    env.step(40)
    moment = env.snapshot()
    expected = [env.step(action) for action in (9, 1, 10)]
    other, _ = env.reset(seed=2)
    assert (other["goal"] != first["goal"]).any()
    env.restore(moment)
    again = [env.step(action) for action in (9, 1, 10)]
    assert data_equivalence(again, expected, exact=True)
    np.testing.assert_array_equal(again[0][0]["goal"], first["goal"])
    np.testing.assert_array_equal(again[0][-1]["goal_pose"], info["goal_pose"])
    elsewhere = bare(task="reach", observation="last", size=(24, 40))
    elsewhere.restore(moment)
    assert data_equivalence([elsewhere.step(action) for action in (9, 1, 10)], expected, exact=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({}, "goal has no picture"), ({"task": "reach", "observation": "latent"}, "goal has no picture")],
)
def test_a_moment_without_a_goal_to_show_is_refused_and_the_episode_goes_on(
    arguments: dict[str, Any], message: str
) -> None:
    source = bare(**arguments)
    source.reset(seed=0)
    env, twin = (bare(task="reach", observation="last") for _ in range(2))
    for one in (env, twin):
        episode(one, [9])
    with pytest.raises(ValueError, match=message):
        env.restore(source.snapshot())
    assert data_equivalence(env.step(1), twin.step(1), exact=True)


def test_a_reward_that_fails_leaves_goal_and_episode() -> None:
    def picky(transition: Any) -> Any:
        return transition.step / 0 if transition.action[0] == 80 else transition.step

    env, twin = (bare(task="reach", reward=picky, observation="last") for _ in range(2))
    for one in (env, twin):
        episode(one, [9])
    with pytest.raises(worldplay_env.RewardError, match="picky"):
        env.step(80)
    assert data_equivalence(env.step(1), twin.step(1), exact=True)


# What cannot be


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ("fly", ValueError, "unknown task 'fly': known are reach"),
        (3, TypeError, 'a task is "reach" or "collect", a mapping of its fields or a Task, got 3'),
        ({"range": 3}, ValueError, "unknown field 'range' of a task: known are distance, angle, chunks"),
        ({"distance": -1}, ValueError, "distance must be a positive number, got -1"),
        ({"angle": "wide"}, ValueError, "angle must be a positive number, got 'wide'"),
        ({"reward": "rich"}, ValueError, "unknown reward 'rich': known are dense, sparse"),
        ({"chunks": [3, 2]}, ValueError, r"the fewest and the most, 1 or more, got \(3, 2\)"),
        ({"chunks": [0, 2]}, ValueError, r"got \(0, 2\)"),
        ({"chunks": 3}, ValueError, "chunks must be a list of whole numbers, got 3"),
        ({"chunks": [1.5, 2]}, ValueError, r"chunks must be whole numbers, got \[1.5, 2\]"),
        ({"actions": []}, ValueError, r"labels 0..80, at least one, got \(\)"),
        ({"actions": [9, 81]}, ValueError, r"labels 0..80, at least one, got \(9, 81\)"),
        ({"actions": [0]}, ValueError, "must hold one that moves"),
    ],
)
def test_a_task_that_cannot_be_is_told_when_the_env_is_made(task: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WorldPlayEnv("testcard", starts=PAIRS, task=task)
