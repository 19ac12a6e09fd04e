"""A step, reset or reward that fails leaves the env as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from envs import bare, episode
from gymnasium.utils.env_checker import data_equivalence

import worldplay_env
from worldplay_env import RewardError, Start, Transition, WorldError


@pytest.mark.parametrize(
    "failure", [WorldError("not finite"), torch.OutOfMemoryError("out of memory"), KeyboardInterrupt()]
)
def test_a_chunk_that_fails_has_not_happened(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    world = worldplay_env.load("testcard", image_size=(32, 48))
    env, twin = bare(world=world, render_mode="rgb_array"), bare(world=world, render_mode="rgb_array")
    for one in (env, twin):
        episode(one, [9])
    step = world.step

    def fail(*arguments: Any, **others: Any) -> Any:
        step(*arguments, **others)
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(world, "step", fail)
        with pytest.raises(type(failure)):
            env.step(1)
    np.testing.assert_array_equal(env.render(), twin.render())
    assert data_equivalence(env.step(2), twin.step(2), exact=True)


def test_a_reward_that_fails_leaves_the_env_before_the_step() -> None:
    def reward(transition: Transition) -> Any:
        [action] = transition.action
        return {9: [1.0], 0: [float("nan")], 3: [1.0, 2.0], 4: None}.get(action) or 1 / 0

    env, twin = (bare(reward=reward, render_mode="rgb_array") for _ in range(2))
    for one in (env, twin):
        episode(one, [9])
    for action, message in ((0, "finite"), (3, "one number"), (4, "Zero"), (80, "ZeroDivision")):
        with pytest.raises(RewardError, match=message):
            env.step(action)
    np.testing.assert_array_equal(env.render(), twin.render())
    assert env.timings.keys() == twin.timings.keys()
    assert data_equivalence(env.step(9), twin.step(9), exact=True)


def test_a_start_that_fails_leaves_the_episode_and_the_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    world = worldplay_env.load("testcard", image_size=(32, 48))
    env, twin = bare(world=world), bare(world=world)
    for one in (env, twin):
        episode(one, [9])

    def fail(start: Start, seed: int) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(world, "start", fail)
        with pytest.raises(torch.OutOfMemoryError):
            env.reset(seed=77)
    assert data_equivalence(env.step(2), twin.step(2), exact=True)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)


def test_cuda_in_a_forked_process_is_refused_at_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    env = bare(world="tiny", weights="random")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match=r'forked after its parent had used CUDA.*"spawn"'):
        env.reset()
    bare().reset()  # the test picture is on the CPU
