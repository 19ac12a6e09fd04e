"""An agent that takes any action, each as likely as another: a baseline.

python agents/random_agent.py --steps 8
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import tyro

from common import describe_action, film_episode


class RandomAgent:
    """Draws actions from the env's action space.

    Args:
        env: A WorldPlay env, or any other.
        seed: With the same seed, the same actions.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int = 0) -> None:
        self.actions = copy.deepcopy(env.action_space)  # seeding our own leaves the env's as it is
        self.actions.seed(seed)

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the next action; observation and info are ignored."""
        return self.actions.sample()


@dataclass(frozen=True)
class Args:
    """Let a random agent wander about, and film it."""

    env: str = "WorldPlay/Tiny-v0"
    """A registered env."""
    steps: int = 8
    """Chunks of a second each, unless the episode ends before."""
    seed: int = 0
    """Of the env and the agent."""
    out: Path = Path("outputs/random_agent.mp4")
    """The film to write."""


def main() -> None:
    """Run one episode."""
    args = tyro.cli(Args, description=Args.__doc__)
    env = gym.make(args.env, observation="chunk")
    agent = RandomAgent(env, args.seed)
    film_episode(env, agent, seed=args.seed, steps=args.steps, path=args.out, describe=describe_action)


if __name__ == "__main__":
    main()
