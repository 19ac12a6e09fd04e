"""A person as an agent: W S A D move and the arrow keys look, in any combination, as in the player.

    python agents/keyboard.py --env WorldPlay/Scene-v0

For playing in comfort, with time to press keys while a world computes, there is `python -m worldplay_env.play`; this
is for a person in the place of any other agent: to give demonstrations, or to be compared with them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import pygame
import tyro

import worldplay_env

LEAST_WIDTH = 640
"""Pixels: a window of its own is as many times larger than the pictures as fit into this, and at least once."""


class KeyboardAgent:
    """Acts by the keys that are held when it is asked, and those tapped since the last time; opposite keys cancel.

    It reads them from the window of the env's `render_mode="human"`; an env without one gets a small window that
    shows the newest picture, and beside it the goal's where there is one.

    Args:
        env: A WorldPlay env, with actions a chunk or a latent frame.

    Attributes:
        left: Whether the person closed the window or pressed Escape; from then on it stands still.

    Raises:
        TypeError: A vector env.
        RuntimeError: In `act`: there is no display.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if isinstance(env, gym.vector.VectorEnv):
            raise TypeError("a keyboard plays one env at a time, got a vector env")
        self.by_latent = isinstance(env.action_space, gym.spaces.MultiDiscrete)
        self.latents: int = env.get_wrapper_attr("layout").latents
        self.shows_itself = env.render_mode == "human"
        self.left = False
        if self.shows_itself and env.spec is not None:
            env.unwrapped.time_limit = env.spec.max_episode_steps  # type: ignore[attr-defined]
        self.keys = {
            getattr(pygame, f"K_{name if len(name) == 1 else name.upper()}"): name for name in worldplay_env.KEYS
        }
        """The code of each key, and its name."""

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the action of the keys."""
        label = 0 if self.left else worldplay_env.label_of_keys(self._pressed(obs))
        return np.full(self.latents, label) if self.by_latent else label

    def close(self) -> None:
        """Close a window of its own; a second time does nothing."""
        if not self.shows_itself:
            pygame.display.quit()

    def _pressed(self, obs: Any) -> set[str]:
        if not self.shows_itself:
            _show(obs)
        if pygame.display.get_surface() is None:  # a person closed the env's window
            self.left = True
            return set()
        tapped = set()
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                self.left = True
            elif event.type == pygame.KEYDOWN and event.key in self.keys:
                tapped.add(self.keys[event.key])
        held = pygame.key.get_pressed()
        return set() if self.left else tapped | {name for code, name in self.keys.items() if held[code]}


def _show(obs: Any) -> None:
    """Show the newest picture of an observation, and the goal's, in a window that is made at need."""
    parts = [obs["observation"], obs["goal"]] if isinstance(obs, dict) else [obs]
    picture = np.concatenate([_newest(np.asarray(part)) for part in parts], axis=1)
    height, width = picture.shape[:2]
    scale = max(1, LEAST_WIDTH // width)
    window = pygame.display.get_surface()
    if window is None or window.get_size() != (width * scale, height * scale):
        pygame.display.set_caption("WorldPlay: W S A D move, arrows look, Esc leaves")
        window = pygame.display.set_mode((width * scale, height * scale))
        if pygame.display.get_driver() == "offscreen" and os.environ.get("SDL_VIDEODRIVER") != "offscreen":
            raise RuntimeError("there is no display to open a window on, and no keyboard to play with")
    surface = pygame.image.frombuffer(picture.tobytes(), (width, height), "RGB")
    window.blit(pygame.transform.scale(surface, window.get_size()), (0, 0))
    pygame.display.flip()


def _newest(shown: np.ndarray) -> np.ndarray:
    """Return the newest picture of an observation, uint8 [height, width, 3]; grey where it is latents."""
    if shown.dtype != np.uint8:
        return np.full((96, 160, 3), 128, dtype=np.uint8)
    picture = shown[-1] if shown.ndim == 4 else shown
    return picture if picture.shape[-1] == 3 else np.moveaxis(picture, 0, -1)


@dataclass(frozen=True)
class Args:
    """Let a person act, until the window is closed."""

    env: str = "WorldPlay/Tiny-v0"
    """A registered env."""
    seed: int = 0
    """Of the env."""
    steps: int = 1000
    """Chunks of a second each, at the most."""


def main() -> None:
    """Run episodes one after another."""
    args = tyro.cli(Args, description=Args.__doc__)
    env = gym.make(args.env, render_mode="human")
    agent = KeyboardAgent(env)
    obs, info = env.reset(seed=args.seed)
    for _ in range(args.steps):
        action = agent.act(obs, info)
        if agent.left:
            break
        obs, reward, terminated, truncated, info = env.step(action)
        print(f"{worldplay_env.action_name(int(info['labels'][-1]))}, reward {float(reward):+.3f}")
        if terminated or truncated:
            obs, info = env.reset()
    env.close()


if __name__ == "__main__":
    main()
