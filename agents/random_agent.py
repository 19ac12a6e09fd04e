"""An agent that takes any action, each as likely as another: the least that an agent is.

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

import worldplay_env


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
        """Return the next action; neither what is seen nor what is known matters to it."""
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
    obs, info = env.reset(seed=args.seed)
    with worldplay_env.FilmWriter(args.out, env.get_wrapper_attr("fps")) as film:
        for step in range(args.steps):
            action = agent.act(obs, info)
            obs, _, terminated, truncated, info = env.step(action)
            frames = obs["observation"] if isinstance(obs, dict) else obs  # beside the goal, if there is a task
            film.write(frames[-info["new_frames"] :])
            print(f"step {step}: {worldplay_env.action_name(int(action))}")
            if terminated or truncated:
                break
    env.close()
    print(args.out)


if __name__ == "__main__":
    main()
