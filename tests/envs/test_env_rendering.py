"""What an env renders, to arrays and in a window."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pygame
import pytest
from envs import bare, episode
from gymnasium.error import ResetNeeded

from worldplay_env.envs.window import LINE
from worldplay_env.media.display import NoDisplay
from worldplay_env.media.lettering import Lettering


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
    np.testing.assert_array_equal(on_screen(), observation.repeat(4, axis=0).repeat(4, axis=1))  # 160 wide in 640
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


def during(frame: int, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something done while the window shows its so many-th frame from now."""
    flip, shown = pygame.display.flip, []

    def flip_and_act() -> None:
        flip()
        shown.append(None)
        if len(shown) == frame:
            act()

    monkeypatch.setattr(pygame.display, "flip", flip_and_act)


def test_what_a_person_does_while_the_window_plays_is_left_to_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    env = bare(render_mode="human")
    env.reset()
    pygame.event.clear()
    sent = [
        pygame.event.Event(pygame.KEYDOWN, key=pygame.K_w),
        pygame.event.Event(pygame.KEYUP, key=pygame.K_w),
        pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=(3, 4)),
        pygame.event.Event(pygame.USEREVENT, number=5),
    ]
    during(3, lambda: [pygame.event.post(event) for event in sent], monkeypatch)
    env.step(9)
    env.step(9)
    kinds = {event.type for event in sent}
    assert [event for event in pygame.event.get() if event.type in kinds] == sent
    env.close()


def test_a_window_whose_events_nobody_reads_can_still_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    env = bare(render_mode="human")
    env.reset()
    with suppress(pygame.error):  # the queue is full
        while True:
            pygame.event.post(pygame.event.Event(pygame.MOUSEMOTION, pos=(0, 0), rel=(0, 0), buttons=(0, 0, 0)))
    during(3, lambda: pygame.event.post(pygame.event.Event(pygame.QUIT)), monkeypatch)
    env.step(9)
    assert not pygame.display.get_init()
    env.close()


def on_screen() -> np.ndarray:
    """Return what the window shows, uint8 [height, width, 3]."""
    return pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2)


@pytest.mark.parametrize("size", [(96, 160), (24, 40)])
def test_a_task_s_window_shows_the_goal_and_says_how_the_episode_stands(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    render = Lettering.render
    monkeypatch.setattr(Lettering, "render", lambda self, text, ink: said.append(text) or render(self, text, ink))
    task = {"actions": (9,), "chunks": (2, 2)}
    env = bare(render_mode="human", observation="last", task=task, size=size)
    env._window._fps = 1000
    observation, _ = env.reset(seed=0)
    scale = 960 // (2 * size[1])
    window = on_screen()
    assert window.shape == (size[0] * scale + LINE, 960, 3)
    pictures = np.concatenate([observation["observation"], observation["goal"]], axis=1)
    np.testing.assert_array_equal(window[:-LINE], pictures.repeat(scale, axis=0).repeat(scale, axis=1))
    assert window[-LINE:].max() > 200
    assert set(said) == {"the goal is at the right; steps: 0 so far"}

    env.time_limit = 3
    said.clear()
    env.step(9)
    assert set(said) == {"the goal is at the right; steps: 2 left"}
    *_, terminated, _, _ = env.step(9)
    assert terminated
    assert said[-env.fps :] == ["reached; steps: 2"] * env.fps
    env.reset(seed=0)
    for _ in range(3):
        env.step(0)
    assert said[-1] == "not reached; steps: 3"
    env.close()


def test_a_task_without_a_picture_has_its_line_below_the_video() -> None:
    env = bare(render_mode="human", observation="last", task="collect", size=(24, 40))
    observation, _ = env.reset(seed=0)
    window = on_screen()
    assert window.shape == (24 * 16 + LINE, 640, 3)
    np.testing.assert_array_equal(window[:-LINE], observation["observation"].repeat(16, axis=0).repeat(16, axis=1))
    assert window[-LINE:].max() > 200
    env.close()


@pytest.mark.parametrize("variables", [{}, {"SDL_VIDEODRIVER": "no-such-driver"}, {"DISPLAY": ":987"}])
def test_without_a_display_a_reset_says_so_and_leaves_the_env_as_it_was(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    env = bare(render_mode="human")
    with pytest.raises(NoDisplay, match="no display to open a window on"):
        env.reset(seed=0)
    with pytest.raises(ResetNeeded):
        env.step(0)
    assert not pygame.display.get_init()


def test_render_without_a_mode_warns() -> None:
    env = bare()
    env.reset()
    with pytest.warns(UserWarning, match="without a render mode: make the env with one of rgb_array"):
        assert env.render() is None


def test_the_video_plays_at_the_world_s_rate() -> None:
    for mode, rate in ((None, 16), ("rgb_array", 1), ("rgb_array_list", 16), ("human", 16)):
        env = bare(render_mode=mode)
        assert (env.fps, env.metadata["render_fps"]) == (16, rate)
        assert isinstance(env.metadata["render_fps"], int)
