"""An agent that follows a pose string, such as "w-8, right-8, w-8, left-7".

A pose string moves from one latent frame to the next, so it is followed exactly with
`actions="latent"`. With one action a chunk it must turn where chunks begin: the first chunk has a motion less than
later ones (its first latent frame is the start).

    python agents/scripted.py --pose "w-3, right-8, w-4"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import tyro

import worldplay_env
from common import film_episode


class ScriptedAgent:
    """Turns a pose string into the env's actions, and stands still when it has been followed to its end.

    Args:
        env: A WorldPlay env, with actions a chunk or a latent frame.
        pose_string: Comma-separated `name-count`: a name of w, s, a, d, up, down, left, right, and latent frames.

    Raises:
        ValueError: A bad pose string, or one that turns inside a chunk where the env takes one action a chunk.
        TypeError: A vector env.
    """

    def __init__(self, env: gym.Env[Any, Any], pose_string: str) -> None:
        if isinstance(env, gym.vector.VectorEnv):
            raise TypeError("a pose string is followed in one env at a time, got a vector env")
        labels = worldplay_env.load_trajectory(pose_string).labels  # one a latent frame, 0 for the start
        latents: int = env.get_wrapper_attr("layout").latents
        missing = -len(labels) % latents  # the last chunk ends standing still
        self.chunks = np.concatenate([labels, np.zeros(missing, dtype=np.int64)]).reshape(-1, latents)
        self.by_latent = isinstance(env.action_space, gym.spaces.MultiDiscrete)
        if not self.by_latent:
            for number, motions in enumerate(self.chunks):
                _check_even(number, motions)

    def __len__(self) -> int:
        """Return how many steps the pose string takes."""
        return len(self.chunks)

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the action of the step that comes next, by the episode's count of steps in `info`."""
        step = info["step"]
        motions = self.chunks[step] if step < len(self) else np.zeros_like(self.chunks[0])
        return motions if self.by_latent else int(motions[-1])


def _check_even(number: int, motions: np.ndarray) -> None:
    latents = len(motions)
    if number == 0:
        motions = motions[1:]
    if len(set(motions.tolist())) > 1:
        names = ", ".join(worldplay_env.action_name(int(label)) for label in motions)
        raise ValueError(
            f"chunk {number} of the pose string has the motions {names}, but this env takes one action a chunk: "
            f'make it with actions="latent", or give the first item {latents - 1} latent frames, '
            f"the others multiples of {latents}"
        )


@dataclass(frozen=True)
class Args:
    """Follow a pose string, and film it."""

    env: str = "WorldPlay/Tiny-v0"
    """A registered env."""
    pose: str = "w-8, right-8, w-8, left-7"
    """The pose string to follow."""
    actions: str = "latent"
    """"latent" for one action a latent frame, "chunk" for one a chunk."""
    seed: int = 0
    """Of the env."""
    out: Path = Path("outputs/scripted.mp4")
    """The film to write."""


def main() -> None:
    """Run one episode."""
    args = tyro.cli(Args, description=Args.__doc__)
    env = gym.make(args.env, actions=args.actions, observation="chunk")
    agent = ScriptedAgent(env, args.pose)
    film_episode(env, agent, seed=args.seed, steps=len(agent), path=args.out, describe=_describe_camera)


def _describe_camera(action: Any, info: dict[str, Any]) -> str:
    x, y, z = info["poses"][-1][:3, 3]
    return f"camera at {x:+.2f} {y:+.2f} {z:+.2f}"


if __name__ == "__main__":
    main()
