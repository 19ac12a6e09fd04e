"""Batches of the vector env: calls of the world, parts of them, and tensors on its device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from vectors import MODES, NEAR, batched, play, small_dream

from worldplay_env.worlds.base import Decode
from worldplay_env.worlds.testcard import Testcard

# One batch


@pytest.mark.parametrize(("max_batch", "sizes"), [(None, [5]), (5, [5]), (2, [2, 2, 1]), (1, [1] * 5), (9, [5])])
def test_all_rows_go_through_the_world_in_one_call_or_in_parts_of_max_batch(
    monkeypatch: pytest.MonkeyPatch, max_batch: int | None, sizes: list[int]
) -> None:
    world = Testcard((16, 16))
    env = batched(5, world=world, max_batch=max_batch)
    env.reset(seed=0)
    called, step = [], world.step

    def spy(rollouts: Any, *arguments: Any, **others: Any) -> Any:
        called.append(len(rollouts))
        return step(rollouts, *arguments, **others)

    monkeypatch.setattr(world, "step", spy)
    env.step([9] * 5)
    assert called == sizes


def test_parts_give_what_one_batch_gives() -> None:
    world = small_dream()
    arguments = {"world": world, "observation": "latent", "max_episode_steps": 3, "autoreset_mode": "same_step"}
    whole = play(batched(5, **arguments, task="reach"), 5)
    for max_batch in (1, 2, 3):
        parts = play(batched(5, **arguments, task="reach", max_batch=max_batch), 5)
        for (one, *_, info), (other, *_, other_info) in zip(whole, parts, strict=True):
            for name in ("observation", "goal"):
                np.testing.assert_allclose(one[name], other[name], atol=1e-4)
            np.testing.assert_allclose(info["poses"], other_info["poses"], atol=1e-12)


def test_goals_are_drawn_in_parts_of_max_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Testcard((16, 16))
    called, step = [], world.step

    def spy(rollouts: Any, *arguments: Any, **others: Any) -> Any:
        called.append(len(rollouts))
        return step(rollouts, *arguments, **others)

    monkeypatch.setattr(world, "step", spy)
    batched(5, world=world, max_batch=2, task="reach").reset(seed=0)
    assert max(called) == 2


@pytest.mark.parametrize(("render_mode", "decoded"), [(None, False), ("rgb_array", "newest")])
def test_latents_are_decoded_only_to_be_rendered(
    monkeypatch: pytest.MonkeyPatch, render_mode: str | None, decoded: Decode
) -> None:
    world = Testcard((16, 16))
    env = batched(2, world=world, observation="latent", render_mode=render_mode)
    asked, step = [], world.step

    def spy(*arguments: Any, decode: Decode, **others: Any) -> Any:
        asked.append(decode)
        return step(*arguments, decode=decode, **others)

    monkeypatch.setattr(world, "step", spy)
    play(env, 2)
    assert asked == [decoded] * 2


# Tensors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("observation", ["chunk", "last", "latent"])
def test_torch_output_holds_what_numpy_output_holds(observation: str, mode: str) -> None:
    arguments = {
        "world": Testcard((32, 48)),
        "observation": observation,
        "max_episode_steps": 3,
        "autoreset_mode": mode,
        **NEAR,
    }
    env, expected = batched(output="torch", **arguments), play(batched(**arguments), 7)
    steps = [result[1:4] for result in expected if len(result) == 5]
    observations = [result[0] for result in expected]
    results = []
    env.action_space.seed(0)
    results.append((env.reset(seed=0)[0], None))
    while len(results) < len(expected):
        shown, *others, _ = env.step(torch.from_numpy(env.action_space.sample()))
        results.append((shown, others))
        ended = others[1] | others[2]
        if mode == "disabled" and ended.any():
            results.append((env.reset(options={"reset_mask": ended})[0], None))
    for (shown, _), wanted in zip(results, observations, strict=True):
        for name, part in shown.items():
            assert isinstance(part, torch.Tensor)
            np.testing.assert_array_equal(part.numpy(), wanted[name])
    given = [others for _, others in results if others is not None]
    for (rewards, terminations, truncations), wanted in zip(given, steps, strict=True):
        assert rewards.dtype == torch.float32
        assert terminations.dtype == truncations.dtype == torch.bool
        np.testing.assert_allclose(rewards.numpy(), wanted[0], rtol=1e-6)
        np.testing.assert_array_equal(terminations.numpy(), wanted[1])
        np.testing.assert_array_equal(truncations.numpy(), wanted[2])


@pytest.mark.parametrize("observation", ["chunk", "last", "latent"])
def test_torch_output_is_not_copied_to_the_host(monkeypatch: pytest.MonkeyPatch, observation: str) -> None:
    env = batched(world=small_dream(), observation=observation, size=(16, 24), output="torch", max_episode_steps=3)

    def refuse(*arguments: Any, **others: Any) -> Any:
        raise AssertionError("copied to the host")

    monkeypatch.setattr(torch.Tensor, "cpu", refuse)
    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    env.reset(seed=0)
    for _ in range(5):
        env.step([9, 1, 0])


def test_tensors_once_handed_out_do_not_change() -> None:
    env = batched(world=Testcard((32, 48)), output="torch", observation="last", autoreset_mode="same_step")
    first, _ = env.reset(seed=0)
    second, *_ = env.step([9, 1, 0])
    kept = [first.clone(), second.clone()]
    env.step([9, 1, 0])
    shown, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    shown[:] = 0
    env.step([9, 1, 0])
    assert torch.equal(first, kept[0])
    assert torch.equal(second, kept[1])
