"""What an env renders, to arrays and in a window."""

from __future__ import annotations

import time

import numpy as np
import pygame
import pytest
from envs import bare, episode


def test_rgb_array_is_the_newest_frame() -> None:
    env = bare(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), observation[-1])
    observation, *_ = env.step(9)
    frame = env.render()
    np.testing.assert_array_equal(frame, observation[-1])
    frame[:] = 0  # type: ignore[index]
    assert env.render().any()  # type: ignore[union-attr]


def test_rgb_array_list_is_every_frame_since_the_last_call() -> None:
    env = bare(render_mode="rgb_array_list")
    (first, _), one, two = episode(env, [9, 1])
    video = env.render()
    expected = np.concatenate([first[:1], one[0][-13:], two[0]])
    np.testing.assert_array_equal(np.stack(video), expected)  # type: ignore[arg-type]
    assert env.render() == []
    env.step(1)
    assert len(env.render()) == 16  # type: ignore[arg-type]
    env.step(1)
    env.reset()
    assert len(env.render()) == 1  # type: ignore[arg-type]


def test_a_window_is_opened_when_there_is_something_to_play_and_closed_with_the_env() -> None:
    env = bare(render_mode="human", observation="last")
    assert not pygame.display.get_init()
    observation, _ = env.reset(seed=0)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2)
    np.testing.assert_array_equal(shown, observation.repeat(4, axis=0).repeat(4, axis=1))  # 160 wide in 640
    assert env.render() is None
    env.close()
    assert not pygame.display.get_init()


def test_a_window_plays_at_the_speed_of_the_video_and_stays_closed_once_a_person_closed_it() -> None:
    env = bare(render_mode="human")
    env.reset()
    began = time.perf_counter()
    env.step(9)
    assert 12 / 16 <= time.perf_counter() - began < 2
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    env.step(9)
    assert not pygame.display.get_init()
    env.step(9)
    assert not pygame.display.get_init()
    env.close()


def test_render_without_a_mode_warns() -> None:
    env = bare()
    env.reset()
    with pytest.warns(UserWarning, match="without a render mode: make the env with one of rgb_array"):
        assert env.render() is None


def test_the_video_plays_at_the_world_s_rate() -> None:
    assert bare().metadata["render_fps"] == 16
    assert isinstance(bare().metadata["render_fps"], int)
