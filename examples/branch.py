"""Fork one world three ways, and show them side by side.

A snapshot costs nothing and copies nothing, so that a planner can try what would happen, and go back.

    python examples/branch.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import tyro

import worldplay_env

BRANCHES = (("left",), ("w",), ("right",))
"""The keys held down in each."""


@dataclass(frozen=True)
class Args:
    """Walk forward, then go three ways from there."""

    env: str = "WorldPlay/Tiny-v0"
    """A registered env with chunk observations."""
    steps: int = 2
    """Chunks in each branch."""
    out: Path = Path("outputs/branch.mp4")
    """The film to write; a picture of each second goes beside it."""


def branch(env: gym.Env, snapshot: worldplay_env.Snapshot, action: int, steps: int) -> np.ndarray:
    """Go on from a snapshot with one action; return the frames, uint8 [16 * steps, height, width, 3]."""
    env.get_wrapper_attr("restore")(snapshot)
    return np.concatenate([env.step(action)[0] for _ in range(steps)])


def main() -> None:
    """Make the film and the picture."""
    args = tyro.cli(Args, description=Args.__doc__)
    actions = [worldplay_env.label_of_keys(keys) for keys in BRANCHES]
    env = gym.make(args.env)
    env.reset(seed=0)
    obs, *_ = env.step(worldplay_env.label_of_keys(["w"]))
    snapshot = env.get_wrapper_attr("snapshot")()
    branches = [branch(env, snapshot, action, args.steps) for action in actions]
    env.close()

    with worldplay_env.FilmWriter(args.out, env.get_wrapper_attr("fps")) as film:
        film.write(np.concatenate([obs] * len(branches), axis=2))  # the past that they share
        film.write(np.concatenate(branches, axis=2))
    names = [worldplay_env.action_name(action) for action in actions]
    ends = [
        (second, name, frames) for second in range(args.steps) for name, frames in zip(names, branches, strict=True)
    ]
    worldplay_env.save_picture(
        worldplay_env.tile(
            [frames[16 * second + 15] for second, _, frames in ends],
            [f"{name}, {second + 1} s" for second, name, _ in ends],
            columns=len(branches),
        ),
        args.out.with_suffix(".png"),
    )
    print(args.out, args.out.with_suffix(".png"), sep="\n")


if __name__ == "__main__":
    main()
