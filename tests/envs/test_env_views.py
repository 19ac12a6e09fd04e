"""How frames are shown: every k-th of a chunk, scaled, channel first; of one world as of many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from envs import PICTURES, bare, episode
from gymnasium.utils.env_checker import check_env

import worldplay_env
from worldplay_env import Start
from worldplay_env.envs.observation import ObservationEncoder
from worldplay_env.media.image import fit_image
from worldplay_env.worlds.base import Chunk, Control
from worldplay_env.worlds.testcard import frame_number


@pytest.mark.parametrize("every", [2, 4, 8, 16])
def test_every_kth_frame_is_counted_back_from_the_newest(every: int) -> None:
    full, thinned = episode(bare(), [9, 40]), episode(bare(every=every), [9, 40])
    assert bare(every=every).observation_space.shape == (16 // every, 96, 160, 3)
    for (all_frames, *_), (shown, *_, info) in zip(full, thinned, strict=True):
        np.testing.assert_array_equal(shown, all_frames[::-1][::every][::-1])
        assert shown in bare(every=every).observation_space
        assert info["frame"] == {0: 0, 1: 13, 2: 29}[info["step"]]
    first, second = ([frame_number(frame) for frame in thinned[step][0]] for step in (1, 2))
    new = thinned[1][-1]["new_frames"]
    assert first[-new:] == list(range(12, -1, -every))[::-1]
    assert second == list(range(28, 12, -every))[::-1]
    assert thinned[2][-1]["new_frames"] == thinned[0][-1]["new_frames"] == 16 // every


@pytest.mark.parametrize("observation", ["chunk", "last"])
@pytest.mark.parametrize("size", [None, (24, 40)])
def test_channel_first_is_the_same_with_its_axes_in_another_order(observation: str, size: Any) -> None:
    last, first = (bare(observation=observation, size=size, channel_first=choice) for choice in (False, True))
    for (plain, *_), (moved, *_) in zip(episode(last, [9, 40]), episode(first, [9, 40]), strict=True):
        np.testing.assert_array_equal(moved, np.moveaxis(plain, -1, -3))
        assert moved.flags.c_contiguous
        assert moved in first.observation_space


def test_renderings_keep_their_form_whatever_is_observed() -> None:
    plain, other = (
        bare(render_mode="rgb_array_list"),
        bare(render_mode="rgb_array_list", channel_first=True, every=8, observation="chunk"),
    )
    for env in (plain, other):
        episode(env, [9, 40])
    frames = plain.render()
    assert len(frames) == 1 + 13 + 16  # type: ignore[arg-type]
    np.testing.assert_array_equal(frames, other.render())  # type: ignore[arg-type]


def test_the_checker_passes_for_thinned_and_turned_frames() -> None:
    check_env(bare(every=4, channel_first=True, size=(24, 32)), skip_render_check=True)


@pytest.mark.parametrize("kind", ["chunk", "last", "latent"])
def test_many_worlds_are_shown_as_each_alone_and_nothing_is_shared_with_the_world(kind: str) -> None:
    world = worldplay_env.load("testcard", image_size=(32, 48))
    view = ObservationEncoder.of(kind, world, (16, 24), every=2 if kind == "chunk" else 1, channel_first=True)
    rollouts = [world.start(Start(picture), seed) for seed, picture in enumerate(PICTURES)]
    starts = view.of_starts(rollouts, world.device)
    assert starts.shape == (3, *view.space.shape)
    alone = [view.of_starts([rollout], world.device)[0] for rollout in rollouts]
    chunks: list[Chunk] = []
    world.step(rollouts[:1], [Control.of_labels(np.eye(4), [9] * 4, first=True)])  # of another age than the others
    for rollout in rollouts:
        control = Control.of_labels(rollout.pose, [10] * 4, first=rollout.chunks == 0)
        chunks += world.step([rollout], [control])
    shown = view.of_chunks(rollouts, chunks)
    assert shown.shape == (3, *view.space.shape)
    for row in range(3):
        assert torch.equal(starts[row], alone[row])
        assert torch.equal(shown[row], view.of_chunks([rollouts[row]], [chunks[row]])[0])
        assert shown[row].numpy() in view.space
        assert starts[row].numpy() in view.space
    before = [chunk.latents.clone() for chunk in chunks if chunk.latents is not None]
    frames = [chunk.frames.clone() for chunk in chunks if chunk.frames is not None]
    starts.zero_()
    shown.zero_()
    assert all(torch.equal(chunk.latents, kept) for chunk, kept in zip(chunks, before, strict=True))  # type: ignore[arg-type]
    assert all(torch.equal(chunk.frames, kept) for chunk, kept in zip(chunks, frames, strict=True))  # type: ignore[arg-type]
    for rollout, picture in zip(rollouts, PICTURES, strict=True):
        np.testing.assert_array_equal(rollout.picture, fit_image(picture, (32, 48)))
