"""Resets of the vector env: masks, seeds and starts, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from envs import PICTURES
from vectors import batched, play, small_dream

import worldplay_env
from worldplay_env.media.image import fit_image
from worldplay_env.worlds.testcard import Testcard


@pytest.mark.parametrize("world", [Testcard((32, 48)), small_dream()], ids=["test picture", "dream"])
@pytest.mark.parametrize("observation", ["chunk", "latent"])
def test_a_masked_reset_leaves_the_other_rows_bit_for_bit(world: Any, observation: str) -> None:
    env, untouched = (batched(world=world, observation=observation) for _ in range(2))
    before = play(env, 3)[-1][0]
    play(untouched, 3)
    kept = env.rollouts
    before_given = before.copy()
    before[1] = 0  # what a user does to an array has no part in the next
    mask = np.array([True, False, False])
    observations, infos = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(observations[1:], before_given[1:])
    assert (observations[0] != before_given[0]).any()
    assert mask.tolist() == [True, False, False]
    assert infos["_step"].tolist() == [True, False, False]
    assert env.rollouts[0] is not kept[0]
    for row in (1, 2):
        assert env.rollouts[row] is kept[row]
        control = worldplay_env.Control.of_labels(kept[row].pose, [9] * 4, first=False)
        [one], [other] = (world.step([it.rollouts[row].fork()], [control]) for it in (env, untouched))
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.frames, other.frames)


def test_rows_draw_from_random_numbers_of_their_own() -> None:
    env = batched(3, world=Testcard((16, 16)))
    env.reset(seed=7)
    assert env.np_random_seed == (7, 8, 9)
    seeds = [rollout.seed for rollout in env.rollouts]
    env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset()
    later = [rollout.seed for rollout in env.rollouts]
    env.reset(seed=[None, 8, 9])
    assert [rollout.seed for rollout in env.rollouts][1:] == seeds[1:]
    env.reset()
    assert [rollout.seed for rollout in env.rollouts][1:] == later[1:]
    env.reset(seed=7)
    for _ in range(2):
        env.reset()
    assert env.rollouts[0].seed == later[0]
    assert len(set(seeds + later)) == 6


@pytest.mark.parametrize("seeds", [range(7, 10), (7, 8, 9), np.arange(7, 10)])
def test_seeds_come_in_any_sequence(seeds: Any) -> None:
    env = batched(3, world=Testcard((16, 16)))
    env.reset(seed=seeds)
    assert env.np_random_seed == (7, 8, 9)


def test_an_env_that_was_never_seeded_has_different_rows() -> None:
    env = batched(3, world=Testcard((16, 16)))
    assert len(set(env.np_random_seed)) == 3
    env.reset()
    assert len({rollout.seed for rollout in env.rollouts}) == 3


def test_a_start_is_given_for_all_rows_or_for_each_whatever_its_size() -> None:
    env = batched(2, world=Testcard((32, 48)), observation="last")
    large = np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    observations, _ = env.reset(options={"image": PICTURES[0], "prompt": "a street"})
    np.testing.assert_array_equal(observations, np.stack([fit_image(PICTURES[0], (32, 48))] * 2))
    assert [rollout.prompt for rollout in env.rollouts] == ["a street"] * 2
    options = {"image": [PICTURES[1], large], "prompt": ["a field", ""]}
    observations, _ = env.reset(options=options)
    np.testing.assert_array_equal(observations, [fit_image(picture, (32, 48)) for picture in (PICTURES[1], large)])
    assert [rollout.prompt for rollout in env.rollouts] == ["a field", ""]
    observations, _ = env.reset(options={"image": [None, None]})
    assert (observations == 128).all()
    assert set(options) == {"image", "prompt"}
