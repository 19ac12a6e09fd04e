"""A person as an agent: every key counts, and is read from the window that shows the world."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from scripts import load_script

import worldplay_env

KeyboardAgent = load_script("agents/keyboard.py").KeyboardAgent
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)


def make(actions: str = "chunk") -> gym.Env[Any, Any]:
    return gym.make("WorldPlay/Testcard-v0", starts=[(None, "")], actions=actions)


@pytest.fixture
def keyboard() -> Iterator[Callable[..., Any]]:
    """Make keyboard agents, and have no window or key left afterwards."""
    agents = []

    def made(env: gym.Env[Any, Any]) -> Any:
        agents.append(KeyboardAgent(env))
        return agents[-1]

    yield made
    for agent in agents:
        agent.close()
    pygame.display.quit()


def press(*keys: int) -> None:
    for key in keys:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


@pytest.mark.parametrize(
    ("keys", "label"),
    [
        ((pygame.K_w,), 9),
        ((pygame.K_w, pygame.K_RIGHT), 10),
        ((pygame.K_a, pygame.K_d, pygame.K_UP), 3),
        ((pygame.K_p,), 0),
        ((), 0),
    ],
)
def test_keys_tapped_since_the_last_step_are_the_action(
    keys: tuple[int, ...], label: int, keyboard: Callable[..., Any]
) -> None:
    env = make()
    agent = keyboard(env)
    obs, info = env.reset(seed=0)
    assert agent.act(obs, info) == 0
    press(*keys)

    action = agent.act(obs, info)

    assert action == label
    assert env.action_space.contains(action)
    assert agent.act(obs, info) == 0  # a tap counts once


def test_keys_that_are_held_count_in_every_step(
    keyboard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make("latent")
    agent = keyboard(env)
    obs, info = env.reset(seed=0)
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: defaultdict(bool, {pygame.K_s: True}))
    for _ in range(2):
        np.testing.assert_array_equal(agent.act(obs, info), [18, 18, 18, 18])


@pytest.mark.parametrize("event", [{"type": pygame.QUIT}, {"type": pygame.KEYDOWN, "key": pygame.K_ESCAPE}])
def test_a_person_who_leaves_stands_still_from_then_on(event: dict[str, int], keyboard: Callable[..., Any]) -> None:
    env = make()
    agent = keyboard(env)
    obs, info = env.reset(seed=0)
    agent.act(obs, info)
    assert not agent.left
    press(pygame.K_w)
    pygame.event.post(pygame.event.Event(event.pop("type"), **event))
    assert agent.act(obs, info) == 0
    press(pygame.K_w)
    assert agent.act(obs, info) == 0
    assert agent.left


@pytest.mark.parametrize("shown", [{}, {"observation": "last"}, {"observation": "last", "channel_first": True}])
def test_the_window_of_its_own_shows_the_newest_picture_beside_the_goal(
    shown: dict[str, Any], keyboard: Callable[..., Any]
) -> None:
    env = gym.make("WorldPlay/Testcard-v0", starts=[(PICTURES[0], "")], task="reach", **shown)
    agent = keyboard(env)
    obs, info = env.reset(seed=0)
    obs, *_, info = env.step(agent.act(obs, info))
    agent.act(obs, info)

    window = pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2)
    scale = window.shape[0] // 96
    assert window.shape == (96 * scale, 320 * scale, 3)
    parts = [obs["observation"] if shown else obs["observation"][-1], obs["goal"]]
    if "channel_first" in shown:
        parts = [np.moveaxis(part, 0, -1) for part in parts]
    np.testing.assert_array_equal(window[scale // 2 :: scale, scale // 2 :: scale], np.concatenate(parts, axis=1))


def test_the_keys_are_read_from_the_window_that_the_env_plays_in(keyboard: Callable[..., Any]) -> None:
    starts = [(None, "")]
    env = gym.make("WorldPlay/Testcard-v0", starts=starts, render_mode="human", size=(12, 20))
    agent = keyboard(env)
    obs, info = env.reset(seed=0)
    window = pygame.display.get_surface()
    press(pygame.K_w)
    assert agent.act(obs, info) == 9
    assert pygame.display.get_surface() is window
    env.close()
    agent.act(obs, info)
    assert agent.left


def test_a_key_tapped_while_the_window_plays_counts_in_the_next_step_and_escape_leaves(
    keyboard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = gym.make("WorldPlay/Testcard-v0", starts=[(None, "")], render_mode="human", size=(12, 20))
    agent = keyboard(env)
    obs, info = env.reset(seed=0)
    flip, shown = pygame.display.flip, []

    def flip_and_tap() -> None:
        flip()
        shown.append(None)
        if key := {5: pygame.K_w, 9: pygame.K_RIGHT, 20: pygame.K_ESCAPE}.get(len(shown)):
            press(key)

    monkeypatch.setattr(pygame.display, "flip", flip_and_tap)
    obs, *_, info = env.step(agent.act(obs, info))
    action = agent.act(obs, info)
    assert action == worldplay_env.label_of_keys(["w", "right"])
    assert not agent.left
    obs, *_, info = env.step(action)
    agent.act(obs, info)
    assert agent.left


def test_a_person_at_the_keyboard_is_told_the_steps_left(keyboard: Callable[..., Any]) -> None:
    env = gym.make("WorldPlay/Reach-v0", world="testcard", render_mode="human", max_episode_steps=5)
    keyboard(env)
    assert env.unwrapped.time_limit == 5


def test_a_window_of_its_own_needs_a_display(keyboard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    obs, info = env.reset(seed=0)
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="no display to open a window on"):
        keyboard(env).act(obs, info)
