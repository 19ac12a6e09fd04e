"""Experience: whole episodes, each a function of its seed alone, from one process or many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

from worldplay_env.media.files import replacing
from worldplay_env.workers.opening import open_workers


class Agent(Protocol):
    """What chooses actions."""

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the next action from the newest observation and info."""


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """What happened in T steps.

    Attributes:
        seed: What the env was reset with.
        observations: [T + 1, ...], the reset's first; a dict of such where the env's are dicts.
        actions: [T, ...].
        rewards: float64 [T].
        terminated: Whether the env ended it.
        truncated: Whether a limit of steps ended it.
        infos: What the infos of reset and all steps hold, each [T + 1, ...].
    """

    seed: int
    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    infos: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.rewards)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays: names are those of the attributes, and "infos/poses" for what is inside one."""
        return dict(_flat("", vars(self)))

    def save(self, path: str | Path) -> None:
        """Write `arrays()` to an .npz file, whole or not at all."""
        arrays: dict[str, Any] = self.arrays()
        with replacing(path) as partial:
            np.savez_compressed(partial, **arrays)


def play_episode(
    env: gymnasium.Env[Any, Any],
    seed: int,
    make_agent: Callable[[gymnasium.Env[Any, Any], int], Agent],
    max_steps: int | None = None,
) -> RecordedEpisode:
    """Play one episode to its end.

    Args:
        env: Is reset with the seed.
        seed: Of the env and of the agent.
        make_agent: Takes the env and the seed, and returns an agent that has played no episode yet.
        max_steps: Truncates the episode, for envs that never end by themselves; by default the env alone ends it.
    """
    _check_steps(max_steps)
    agent = make_agent(env, seed)
    obs, info = env.reset(seed=seed)
    observations, infos = [obs], [info]
    actions: list[Any] = []
    rewards: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated):
        action = agent.act(obs, info)
        obs, reward, terminated, truncated, info = env.step(action)
        truncated = truncated or len(actions) + 1 == max_steps
        actions.append(action)
        rewards.append(float(reward))
        observations.append(obs)
        infos.append(info)
    return RecordedEpisode(
        seed=seed,
        observations=_stacked(observations),
        actions=_stacked(actions),
        rewards=np.array(rewards, dtype=np.float64),
        terminated=bool(terminated),
        truncated=bool(truncated),
        infos=_stacked(infos),
    )


def collect(
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    make_agent: Callable[[gymnasium.Env[Any, Any], int], Agent],
    seeds: Sequence[int],
    *,
    max_steps: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    address: str | None = None,
) -> Iterator[RecordedEpisode]:
    """Yield one episode for each seed as soon as it is over: with several workers, in any order.

    An episode is the same whoever plays it, and whatever was played before.

    Args:
        make_env: Makes the env of each worker, such as `functools.partial(gym.make, "WorldPlay/Tiny-v0")`.
        make_agent: Takes the env and an episode's seed, and returns an agent that has played no episode yet.
        seeds: Of the episodes.
        max_steps: Truncates every episode; by default the env alone ends it.
        workers: How many of Ray's actors; None for this process, without Ray.
        device: What the envs compute on; this and the rest as in `open_workers`.
        threads: CPU threads of each worker.
        address: A running Ray cluster.
    """
    _check_steps(max_steps)
    play = functools.partial(play_episode, make_agent=make_agent, max_steps=max_steps)
    with open_workers(make_env, workers, device=device, threads=threads, address=address) as hands:
        for _, episode in hands.stream(play, seeds):
            yield episode


def _check_steps(max_steps: int | None) -> None:
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be 1 or more, got {max_steps}")


def _stacked(values: Sequence[Any]) -> Any:
    """Return values as one array, or of dicts a dict of them, of the keys that all have."""
    if not isinstance(values[0], Mapping):
        return np.stack([np.asarray(value) for value in values])
    shared = [key for key in values[0] if all(key in value for value in values)]
    return {key: _stacked([value[key] for value in values]) for key in shared}


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a dict of dicts under the keys that lead to them, with slashes between."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}/", value)
        else:
            yield prefix + name, np.asarray(value)
