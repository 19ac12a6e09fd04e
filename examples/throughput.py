"""Measure frames a second: worlds in one batch beside Gymnasium's vectorised single envs, in the same run.

The three take turns, step by step with the same actions, so that whatever else the machine does slows all of them.

    python examples/throughput.py --num-envs 1 4 --steps 3
"""

from __future__ import annotations

import functools
import statistics
import time
from dataclasses import dataclass
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import torch
import tyro

import worldplay_env
from worldplay_env.provenance import device_name, load_average

gym.register_envs(worldplay_env)

MAKERS = ("WorldPlayVectorEnv", "SyncVectorEnv", "AsyncVectorEnv")


@dataclass(frozen=True)
class Args:
    """Print a table of frames a second: medians over the steps that follow the warm-up."""

    env: str = "WorldPlay/Tiny-v0"
    """A registered env."""
    num_envs: tuple[int, ...] = (1, 4, 16, 64)
    """How many worlds; a row of the table for each."""
    observations: tuple[str, ...] = ("chunk", "latent")
    """What is observed: "chunk" and "last" are decoded, "latent" is not."""
    steps: int = 5
    """Steps that are measured."""
    warm_up: int = 5
    """Steps before them; after four, a world model's memory is full, and all later steps cost the same."""
    most_processes: int = 16
    """The most envs for which AsyncVectorEnv, which starts a process for each, is measured: 64 take over 24 GB."""
    device: str = "cpu"
    """A torch device."""


def make(args: Args, kind: str, num_envs: int, observation: str) -> gym.vector.VectorEnv:
    """Return a vector env of one of the three kinds."""
    options: dict[str, Any] = {
        "observation": observation,
        "device": args.device,
        "max_episode_steps": args.warm_up + args.steps + 1,  # none ends while it is measured
    }
    if kind == "WorldPlayVectorEnv":
        return gym.make_vec(args.env, num_envs=num_envs, **options)
    single = functools.partial(gym.make, f"worldplay_env:{args.env}", **options)
    if kind == "SyncVectorEnv":
        return gym.vector.SyncVectorEnv([single] * num_envs)
    # A process that was forked shares its parent's weights; but one cannot be, once its parent has used a GPU.
    return gym.vector.AsyncVectorEnv([single] * num_envs, context="fork" if args.device == "cpu" else "spawn")


@dataclass(frozen=True)
class Rates:
    """What was measured with some number of worlds.

    Attributes:
        frames: Frames a second of each kind that was measured.
        outside: The part of a step of the batched env that is spent outside the world.
    """

    frames: dict[str, float]
    outside: float


def measure(args: Args, num_envs: int, observation: str) -> Rates:
    """Step each kind of vector env in turn; return the medians."""
    kinds = [kind for kind in MAKERS if kind != "AsyncVectorEnv" or num_envs <= args.most_processes]
    envs = {kind: make(args, kind, num_envs, observation) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    outside: list[float] = []
    made = {kind: env.reset(seed=0)[1]["frame"] for kind, env in envs.items()}
    frames = 0
    actions = np.random.default_rng(0).integers(0, worldplay_env.NUM_ACTIONS, (args.warm_up + args.steps, num_envs))
    for step, action in enumerate(actions):
        for kind, env in envs.items():
            began = time.perf_counter()
            info = env.step(action)[-1]
            if step >= args.warm_up:
                seconds[kind].append(time.perf_counter() - began)
                frames = int(np.sum(info["frame"] - made[kind]))
            made[kind] = info["frame"]
        timings = envs["WorldPlayVectorEnv"].unwrapped.timings  # type: ignore[attr-defined]
        if step >= args.warm_up:
            outside.append(1 - timings["world"] / timings["total"])
    for env in envs.values():
        env.close()
    rates = {kind: frames / statistics.median(measured) for kind, measured in seconds.items()}
    return Rates(rates, statistics.median(outside))


def main() -> None:
    """Print the table as it grows, and what was measured outside the world."""
    args = tyro.cli(Args, description=Args.__doc__)
    print(f"Frames a second of {args.env} on {args.device}, medians of {args.steps} steps.")
    print(f"{device_name(torch.device(args.device))}; load average {load_average()} before.\n")
    print(f"| observation | N | {' | '.join(MAKERS)} | batched / sync | outside the world |")
    print("| --- " * (len(MAKERS) + 4) + "|")
    shares = []
    for observation in args.observations:
        for num_envs in args.num_envs:
            rates = measure(args, num_envs, observation)
            shown = [f"{rates.frames[kind]:.1f}" if kind in rates.frames else "-" for kind in MAKERS]
            ratio = rates.frames["WorldPlayVectorEnv"] / rates.frames["SyncVectorEnv"]
            cells = [observation, str(num_envs), *shown, f"{ratio:.2f}", f"{rates.outside:.2%}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            shares.append(rates.outside)
    print(f"\nProfile: at most {max(shares):.2%} of a step of the batched env is spent outside the world.")


if __name__ == "__main__":
    main()
