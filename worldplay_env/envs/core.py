"""The episodes of one world, reset and stepped in batches on the world's device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium import spaces

from worldplay_env.envs.episode import Episode, Stepped, compose, split, stack
from worldplay_env.envs.observation import ObservationEncoder, chunk_info, start_info
from worldplay_env.envs.rewards import append_poses, evaluate, start_path
from worldplay_env.envs.tasks.base import Task
from worldplay_env.envs.transition import Goal, Reward, Transition
from worldplay_env.worlds.base import (
    Chunk,
    Control,
    Decode,
    Rollout,
    Start,
    World,
)
from worldplay_env.worlds.device import check_fork
from worldplay_env.worlds.follow import keys_control, next_control
from worldplay_env.worlds.transfer import fetch

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
OUTPUTS = ("numpy", "torch")
"""Arrays on the host, or tensors on the world's device."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """A step of n episodes, judged: the task's new states and entries, rewards, terminations and successes."""

    states: Sequence[Any]
    shown: Sequence[Mapping[str, Any]]
    rewards: np.ndarray
    terminations: np.ndarray
    successes: np.ndarray


class EnvCore:
    """Resets and steps any number of episodes of one world; it keeps none of them.

    Args:
        load: Returns the world; called when it is first needed.
        view: Encodes observations.
        task: The episodes' task.
        reward: Gives rewards, by default those of the task.
        pictures: The frames of the newest chunk that episodes keep for rendering: "newest", "all", or None for none.
        output: The kind of observations, one of `OUTPUTS`.
        words: Whether infos have the start's name and the prompt.
        max_batch: The most episodes in one call of the world; None for all.
        held_keys: Whether actions are held keys in place of labels.

    Raises:
        TypeError: The reward is no function.
    """

    def __init__(
        self,
        load: Callable[[], World],
        view: ObservationEncoder,
        *,
        task: Task[Any] | None = None,
        reward: Reward | None = None,
        pictures: str | None = None,
        output: str = "numpy",
        words: bool = True,
        max_batch: int | None = None,
        held_keys: bool = False,
    ) -> None:
        if reward is not None and not callable(reward):
            raise TypeError(f"a reward is a function of a Transition, got {reward!r}")
        self._load = load
        self._world: World | None = None
        self.view = view
        self.task = task
        self.output = output
        self._words = words
        self._reward = task.score if reward is None and task is not None else reward
        self._pictures = pictures
        self._decode: Decode = view.kind != "latent" or pictures is not None
        if self._decode and view.kind != "chunk" and pictures != "all":
            self._decode = "newest"
        self._max_batch = max_batch
        self._held_keys = held_keys
        self._world_seconds = 0.0

    @property
    def world(self) -> World:
        """The world, loaded at its first use."""
        if self._world is None:
            self._world = self._load()
        return self._world

    def adopt(self, episode: Episode) -> Episode:
        """Return the moment of a snapshot for this core, with a fork of its rollout.

        The observation stays as it was. The snapshot may come from another core of the same world.

        Raises:
            ValueError: This core's task does not know the episode's state, or cannot show it.
        """
        episode, shown = episode.fork(), dict[str, Any]()
        if self.task is not None:
            self.task.check(episode.state, self.view)
            [shown] = self._show([episode.state])
        pictures = None
        if self._pictures is not None:
            # A core without rendering keeps no frames: then the start is the newest picture.
            newest = episode.rollout.picture if episode.pictures is None else episode.pictures[-1]
            pictures = self.view.fit(newest)[None]
        return replace(episode, shown=shown, pictures=pictures)

    @contextmanager
    def timed(self) -> Iterator[dict[str, float]]:
        """Yield a dict that gets, when the block ends, its seconds: "total", and of these "world" and "host".

        "world" counts the calls of the world, "host" the rest.
        """
        began, in_world = time.perf_counter(), self._world_seconds
        seconds: dict[str, float] = {}
        yield seconds
        seconds["total"] = time.perf_counter() - began
        seconds["world"] = self._world_seconds - in_world
        seconds["host"] = seconds["total"] - seconds["world"]

    def release(self) -> None:
        """Drop the world until it is needed again."""
        self._world = None

    @property
    def space(self) -> spaces.Space[Any]:
        """The space of one episode's observations."""
        return self.view.space if self.task is None else self.task.space(self.view)

    def delivered(self, tensor: torch.Tensor) -> Any:
        """Return a tensor as the output kind asks: itself, or an array."""
        return tensor if self.output == "torch" else fetch(tensor)

    def reset(
        self, drawn: Sequence[tuple[int, Start]], generators: Sequence[np.random.Generator]
    ) -> list[tuple[Episode, dict[str, Any]]]:
        """Begin n episodes.

        Args:
            drawn: Seed and start of each one's rollout.
            generators: Random numbers for each episode's task.

        Returns:
            Each one's first moment and info.
        """
        check_fork(self.world.device)
        with self._in_world():
            rollouts = [self.world.start(start, seed) for seed, start in drawn]
        states = self._begin_task(rollouts, generators)
        shown = self._show(states)
        observations: list[Any] = []
        for part in _parts(rollouts, self._max_batch):
            observations += split(self.delivered(self.view.of_starts(part, self.world.device)))
        began = []
        for (_, start), rollout, state, entries, observation in zip(
            drawn, rollouts, states, shown, observations, strict=True
        ):
            episode = Episode(
                rollout=rollout,
                observation=compose(observation, entries),
                path=start_path(rollout.pose),
                state=state,
                shown=entries,
                pictures=self.view.fit(rollout.picture)[None] if self._pictures else None,
                start=start.name,
            )
            info = start_info(rollout, self.view.new_frames(self.world.layout.chunk_images))
            began.append((episode, info | self._episode_info(episode, False)))
        return began

    def step(self, before: Sequence[Episode], actions: np.ndarray) -> Stepped:
        """Make the next chunk of n episodes, which stay as they are.

        Args:
            before: The episodes.
            actions: Their labels, int64 [n] or [n, L], or with `held_keys` [n, 8].
        """
        rollouts = [episode.rollout.fork() for episode in before]
        control_of = keys_control if self._held_keys else next_control
        controls = [control_of(rollout, action) for rollout, action in zip(rollouts, actions, strict=True)]
        chunks, observations, pictures, timings = self._make(rollouts, controls)
        judged = self._judge(before, actions, chunks, observations)
        after = [
            replace(
                episode,
                rollout=rollout,
                observation=compose(observation, entries),
                path=append_poses(episode.path, chunk.poses),
                step=episode.step + 1,
                frame=episode.frame + _frames_made(episode),
                state=state,
                shown=entries,
                pictures=frames,
            )
            for episode, rollout, chunk, observation, state, entries, frames in zip(
                before, rollouts, chunks, observations, judged.states, judged.shown, pictures, strict=True
            )
        ]
        infos = []
        for old, new, control, chunk, success in zip(before, after, controls, chunks, judged.successes, strict=True):
            info = chunk_info(
                control, chunk, new.step, self.view.new_frames(_frames_made(old)), new.frame, self.world.layout.memory
            )
            infos.append(info | self._episode_info(new, bool(success)))
        return Stepped(after, infos, timings, judged.rewards, judged.terminations, judged.successes)

    def _begin_task(self, rollouts: Sequence[Rollout], generators: Sequence[np.random.Generator]) -> list[Any]:
        """Return the task's state of each new episode; None without a task."""
        if self.task is None:
            return [None] * len(rollouts)
        states: list[Any] = []
        for part in _parts(range(len(rollouts)), self._max_batch):
            group, draw = [rollouts[index] for index in part], [generators[index] for index in part]
            with self._in_world():
                states += self.task.begin(self.world, group, draw, pictures=bool(self._decode))
        return states

    def _show(self, states: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the task's entries of the observations of N states."""
        entries = {} if self.task is None or not states else self.task.observe(states, self.view, self.world.device)
        if not entries:
            return [{} for _ in states]
        return split({name: self.delivered(part) for name, part in entries.items()})

    def _make(
        self, rollouts: Sequence[Rollout], controls: Sequence[Control]
    ) -> tuple[tuple[Chunk, ...], tuple[Any, ...], tuple[np.ndarray | None, ...], dict[str, float]]:
        """Make each rollout's next chunk, at most `max_batch` at once.

        Returns:
            Chunks, observations without the task's entries, rendered pictures, and the world's seconds by part. The
            chunks keep their newest frame alone, since the others would fill the device's memory.
        """
        # Equal ages together: within the world they share a batch too.
        full = self.world.layout.full_memory
        by_age = sorted(range(len(rollouts)), key=lambda index: min(rollouts[index].chunks, full))
        made: dict[int, tuple[Chunk, Any, np.ndarray | None]] = {}
        timings: dict[str, float] = {}
        for part in _parts(by_age, self._max_batch):
            group, cameras = [rollouts[index] for index in part], [controls[index] for index in part]
            with self._in_world():
                chunks = self.world.step(group, cameras, decode=self._decode)
            _add_up(timings, chunks)
            shown = split(self.delivered(self.view.of_chunks(group, chunks)))
            pictures = [self._rendered(chunk) for chunk in chunks]
            made.update(zip(part, zip(map(_with_newest_frame, chunks), shown, pictures, strict=True), strict=True))
        made_chunks, observations, rendered = zip(*(made[index] for index in range(len(rollouts))), strict=True)
        return made_chunks, observations, rendered, timings

    def _rendered(self, chunk: Chunk) -> np.ndarray | None:
        return None if self._pictures is None else self.view.frames(chunk, newest=self._pictures == "newest")

    def _judge(
        self, before: Sequence[Episode], actions: np.ndarray, chunks: Sequence[Chunk], observations: Sequence[Any]
    ) -> _Judged:
        """Return what task and reward make of a step of n episodes."""
        states, shown = [episode.state for episode in before], [episode.shown for episode in before]
        rewards, none = np.zeros(len(before)), np.zeros(len(before), dtype=np.bool_)
        if self._reward is None:
            return _Judged(states, shown, rewards, none, none)
        transition = Transition.of_chunks(
            chunks,
            observation=stack(observations),
            action=actions,
            past=[episode.path for episode in before],
            step=np.array([episode.step + 1 for episode in before]),
            goals=self._goals(states),
            states=None if self.task is None else states,
        )
        if self.task is None:
            return _Judged(states, shown, evaluate(self._reward, transition), none, none)
        states = self.task.advance(transition)
        changed = [row for row, episode in enumerate(before) if states[row] is not episode.state]
        for row, entries in zip(changed, self._show([states[row] for row in changed]), strict=True):
            shown[row] = entries
        if shown[0]:
            transition = replace(transition, observation=compose(transition.observation, stack(shown)))
        successes, terminations = self.task.success(transition), self.task.terminated(transition)
        return _Judged(states, shown, evaluate(self._reward, transition), terminations, successes)

    def goal(self, episode: Episode) -> Goal | None:
        """Return where an episode should come to; None without a task, or with one that has no goals."""
        return None if self.task is None else self.task.goal(episode.state)

    def _goals(self, states: Sequence[Any]) -> list[Goal] | None:
        """Return the goals of N states, None if the task has no goals."""
        goals = [] if self.task is None else [self.task.goal(state) for state in states]
        known = [goal for goal in goals if goal is not None]
        return known if known and len(known) == len(states) else None

    def _episode_info(self, episode: Episode, success: bool) -> dict[str, Any]:
        """Return the entries of an info about the episode and its task."""
        begun = {"start": episode.start, "prompt": episode.rollout.prompt} if self._words else {}
        return begun if self.task is None else begun | self.task.info(episode.state, success)

    @contextmanager
    def _in_world(self) -> Iterator[None]:
        """Count the block's seconds as the world's."""
        began = time.perf_counter()
        yield
        self._world_seconds += time.perf_counter() - began


def _add_up(timings: dict[str, float], chunks: Sequence[Chunk]) -> None:
    """Add the seconds by part of the chunks of one call; chunks of one batch have equal timings, which count once."""
    for batch in dict.fromkeys(tuple(chunk.timings.items()) for chunk in chunks):
        for part, seconds in batch:
            timings[part] = timings.get(part, 0.0) + seconds


def _frames_made(episode: Episode) -> int:
    """Return how many frames the next chunk of an episode has."""
    return episode.rollout.world.layout.images_of(episode.rollout.chunks)


def _with_newest_frame(chunk: Chunk) -> Chunk:
    return chunk if chunk.frames is None else replace(chunk, frames=chunk.frames[-1:].clone())


def _parts(rows: Sequence[T], most: int | None) -> list[Sequence[T]]:
    """Cut rows into parts of at most so many; one part of all for None."""
    size = most or max(1, len(rows))
    return [rows[first : first + size] for first in range(0, len(rows), size)]
