"""Collect episodes, on as many processes or machines as there are: one .npz file each.

An episode depends on its seed alone, so the files are the same whatever the number of workers. Without Ray
(pip install 'worldplay-env[ray]') one process makes them all.

    python examples/collect_ray.py --episodes 16 --workers 4
"""

from __future__ import annotations

import functools
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import tyro

from worldplay_env.workers import collect

AGENTS = Path(__file__).resolve().parent.parent / "agents"
sys.path[:0] = [str(AGENTS)]  # what the agents share
# Not imported: a class of no module travels to the workers by value, so that other machines need no copy of its file.
RandomAgent = runpy.run_path(str(AGENTS / "random_agent.py"))["RandomAgent"]
ScriptedAgent = runpy.run_path(str(AGENTS / "scripted.py"))["ScriptedAgent"]


@dataclass(frozen=True)
class Args:
    """Let an agent play episodes, and keep all that it saw and did."""

    env: str = "WorldPlay/Tiny-v0"
    """A registered env."""
    observation: str = "last"
    """"chunk", "last" or "latent"."""
    pose: str | None = None
    """A pose string for the scripted agent to follow, such as "w-3, right-8". By default the random agent plays."""
    episodes: int = 8
    """How many, with the seeds 0, 1, 2, ..."""
    steps: int = 8
    """Steps of an episode, at most."""
    workers: int = 2
    """How many processes play, each with a world of its own."""
    address: str | None = None
    """A running Ray cluster, such as "auto" or HOST:6379. By default Ray is started on this machine."""
    device: str | None = None
    """"cpu" or "cuda". By default "cuda" where there is one."""
    out: Path = Path("outputs/episodes")
    """The folder to write to."""


def make_agent(pose: str | None, env: gym.Env[Any, Any], seed: int) -> Any:
    """Return the agent of one episode."""
    return RandomAgent(env, seed) if pose is None else ScriptedAgent(env, pose)


def main() -> None:
    """Write the episodes as they come."""
    args = tyro.cli(Args, description=Args.__doc__)
    if args.episodes < 1:
        raise SystemExit(f"--episodes must be 1 or more, got {args.episodes}")
    settings: dict[str, Any] = {"observation": args.observation, "device": args.device}
    if args.pose is not None:
        settings["actions"] = "latent"
    episodes = collect(
        functools.partial(gym.make, args.env, **settings),
        functools.partial(make_agent, args.pose),
        range(args.episodes),
        max_steps=args.steps,
        workers=args.workers,
        device=args.device,
        address=args.address,
    )
    for episode in episodes:
        path = args.out / f"episode-{episode.seed:06}.npz"
        episode.save(path)
        print(f"{path}: {len(episode)} steps, reward {episode.rewards.sum():.2f}")


if __name__ == "__main__":
    main()
