"""Episodes of one world, many at a time: how they begin and go on, in one batch on the world's device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from gymnasium import spaces

from worldplay_env.envs.observation import ObservationEncoder, chunk_info, start_info
from worldplay_env.envs.rewards import append_poses, evaluate, start_path
from worldplay_env.envs.tasks.reach import Reach
from worldplay_env.envs.transition import Goal, Reward, Transition
from worldplay_env.worlds.base import (
    CHUNK_FRAMES,
    CHUNK_LATENTS,
    FIRST_CHUNK_FRAMES,
    MEMORY_LATENTS,
    Chunk,
    Control,
    Decode,
    Rollout,
    Start,
    World,
)
from worldplay_env.worlds.device import check_fork
from worldplay_env.worlds.transfer import fetch

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
OUTPUTS = ("numpy", "torch")
"""Arrays on the host, or tensors on the world's device."""
FULL_MEMORY = MEMORY_LATENTS // CHUNK_LATENTS
"""Chunks after which the next one is made from no more of the past than the last."""


@dataclass(frozen=True, eq=False)
class Episode:
    """A moment of one episode; a step makes the next one and leaves this as it is.

    Attributes:
        rollout: Of this episode alone.
        observation: What was shown last: an array or tensor, or a dict of them.
        path: float64 [T, 4, 4], the true poses of its latent frames, the start's first.
        step: Steps so far.
        frame: Frames so far.
        goal: Where the env has a task.
        shown_goal: What observations show of it.
        pictures: uint8 [1 or more, height, width, 3], the newest frame as it is rendered, last, and with "all" before
            it the others of its chunk; None if none are asked for.
        ended: Whether it was terminated or truncated.
        start: What the picture that it began from is called (`Start.name`).
    """

    rollout: Rollout
    observation: Any
    path: np.ndarray
    step: int = 0
    frame: int = 0
    goal: Goal | None = None
    shown_goal: Any = None
    pictures: np.ndarray | None = None
    ended: bool = False
    start: str = ""

    def fork(self) -> Self:
        """Return the same moment with a rollout of its own; no tensor is copied."""
        return replace(self, rollout=self.rollout.fork())


@dataclass(frozen=True, eq=False)
class Stepped:
    """What a step of n episodes came to.

    Attributes:
        episodes: n new moments; not yet ended, whatever follows.
        infos: n infos.
        timings: n times the world's seconds by part.
        rewards: float64 [n].
        successes: bool [n], whether the step ended at the goal of a task.
    """

    episodes: list[Episode]
    infos: list[dict[str, Any]]
    timings: list[dict[str, float]]
    rewards: np.ndarray
    successes: np.ndarray


class EnvCore:
    """Where episodes of a world are played: it begins and advances any number at once, and keeps none.

    Args:
        load: Returns the world; called when it is first needed.
        view: What is observed.
        task: Gives episodes goals.
        reward: Judges steps; by default the task.
        pictures: "newest" or "all": which frames of the newest chunk episodes keep for rendering; None for none.
        output: One of `OUTPUTS`, the kind of observations.
        words: Whether infos have the start's name and the prompt.
        max_batch: The most that go through the world at once; None for all.

    Raises:
        TypeError: The reward is no function.
    """

    def __init__(
        self,
        load: Callable[[], World],
        view: ObservationEncoder,
        *,
        task: Reach | None = None,
        reward: Reward | None = None,
        pictures: str | None = None,
        output: str = "numpy",
        words: bool = True,
        max_batch: int | None = None,
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
        self.world_seconds = 0.0
        """What calls of the world have taken, since it was last set to 0."""

    @property
    def world(self) -> World:
        """The world, which is loaded when it is first asked for."""
        if self._world is None:
            self._world = self._load()
        return self._world

    def adopt(self, episode: Episode) -> Episode:
        """Return a moment that another stage of the same world may have made, as this one shows it.

        Its observation stays as it was; its rollout is a fork.

        Raises:
            ValueError: This stage cannot show its goal, or has a task where there is no goal.
        """
        episode, shown_goal = episode.fork(), None
        if self.task is not None:
            needed = "latent" if self.view.kind == "latent" else "picture"
            if episode.goal is None or getattr(episode.goal, needed) is None:
                raise ValueError(
                    f"the snapshot's goal has no {needed}: take it in an env with the same task and observation"
                )
            [shown_goal] = split(self.delivered(self.view.of_goals([episode.goal], self.world.device)))
        pictures = None
        if self._pictures is not None:
            # A stage that shows nothing keeps no frame: then the start is the newest picture that there is.
            newest = episode.rollout.picture if episode.pictures is None else episode.pictures[-1]
            pictures = self.view.fit(newest)[None]
        return replace(episode, shown_goal=shown_goal, pictures=pictures)

    def release(self) -> None:
        """Let go of the world until it is asked for again."""
        self._world = None

    @property
    def space(self) -> spaces.Space[Any]:
        """The space of one episode's observations."""
        return self.view.space if self.task is None else self.task.space(self.view)

    def delivered(self, tensor: torch.Tensor) -> Any:
        """Return a tensor in the stage's kind of output."""
        return tensor if self.output == "torch" else fetch(tensor)

    def reset(
        self, drawn: Sequence[tuple[int, Start]], generators: Sequence[np.random.Generator]
    ) -> list[tuple[Episode, dict[str, Any]]]:
        """Begin n episodes.

        Args:
            drawn: Seed and start of each one's rollout.
            generators: Each draws the goal of its own episode, if there is a task.

        Returns:
            Each one's first moment and info.
        """
        check_fork(self.world.device)
        with self._in_world():
            rollouts = [self.world.start(start, seed) for seed, start in drawn]
        goals, shown_goals = self._draw_goals(rollouts, generators)
        observations: list[Any] = []
        for part in _parts(rollouts, self._max_batch):
            observations += split(self.delivered(self.view.of_starts(part, self.world.device)))
        began = []
        starts = [start for _, start in drawn]
        for start, rollout, goal, shown_goal, shown in zip(
            starts, rollouts, goals, shown_goals, observations, strict=True
        ):
            episode = Episode(
                rollout=rollout,
                observation=self._observed(shown, shown_goal),
                path=start_path(rollout.pose),
                goal=goal,
                shown_goal=shown_goal,
                pictures=self.view.fit(rollout.picture)[None] if self._pictures else None,
                start=start.name,
            )
            info = start_info(rollout, self.view.new_frames(CHUNK_FRAMES))
            began.append((episode, info | self._episode_info(episode, False)))
        return began

    def step(self, before: Sequence[Episode], labels: np.ndarray) -> Stepped:
        """Make the next chunk of n episodes by their labels, int64 [n] or [n, 4]; they stay as they are."""
        rollouts = [episode.rollout.fork() for episode in before]
        controls = [
            Control.of_labels(rollout.pose, np.broadcast_to(asked, CHUNK_LATENTS), first=rollout.chunks == 0)
            for rollout, asked in zip(rollouts, labels, strict=True)
        ]
        chunks, observations, pictures = self._make(rollouts, controls)
        after = [
            replace(
                episode,
                rollout=rollout,
                observation=self._observed(shown, episode.shown_goal),
                path=append_poses(episode.path, chunk.poses),
                step=episode.step + 1,
                frame=episode.frame + _frames_made(episode),
                pictures=frames,
            )
            for episode, rollout, chunk, shown, frames in zip(
                before, rollouts, chunks, observations, pictures, strict=True
            )
        ]
        rewards, successes = self._judge(before, after, labels, chunks)
        infos = []
        for old, new, control, chunk, success in zip(before, after, controls, chunks, successes, strict=True):
            info = chunk_info(control, chunk, new.step, self.view.new_frames(_frames_made(old)), new.frame)
            infos.append(info | self._episode_info(new, bool(success)))
        return Stepped(after, infos, [chunk.timings for chunk in chunks], rewards, successes)

    def _draw_goals(
        self, rollouts: Sequence[Rollout], generators: Sequence[np.random.Generator]
    ) -> tuple[list[Goal | None], list[Any]]:
        """Return each rollout's goal and what is shown of it; None without a task."""
        if self.task is None:
            return [None] * len(rollouts), [None] * len(rollouts)
        goals: list[Goal] = []
        for part in _parts(range(len(rollouts)), self._max_batch):
            group, draw = [rollouts[index] for index in part], [generators[index] for index in part]
            with self._in_world():
                goals += self.task.goals(self.world, group, draw, pictures=bool(self._decode))
        return [*goals], split(self.delivered(self.view.of_goals(goals, self.world.device)))

    def _make(
        self, rollouts: Sequence[Rollout], controls: Sequence[Control]
    ) -> tuple[tuple[Chunk, ...], tuple[Any, ...], tuple[np.ndarray | None, ...]]:
        """Make each rollout's next chunk, no more than `max_batch` at once: the chunks, observations and pictures.

        The chunks keep their newest frame alone: the others would fill the device's memory.
        """
        # Those of equal age together: they share a batch within the world too.
        by_age = sorted(range(len(rollouts)), key=lambda index: min(rollouts[index].chunks, FULL_MEMORY))
        made: dict[int, tuple[Chunk, Any, np.ndarray | None]] = {}
        for part in _parts(by_age, self._max_batch):
            group, cameras = [rollouts[index] for index in part], [controls[index] for index in part]
            with self._in_world():
                chunks = self.world.step(group, cameras, decode=self._decode)
            shown = split(self.delivered(self.view.of_chunks(group, chunks)))
            pictures = [self._rendered(chunk) for chunk in chunks]
            made.update(zip(part, zip(map(_with_newest_frame, chunks), shown, pictures, strict=True), strict=True))
        made_chunks, observations, rendered = zip(*(made[index] for index in range(len(rollouts))), strict=True)
        return made_chunks, observations, rendered

    def _rendered(self, chunk: Chunk) -> np.ndarray | None:
        return None if self._pictures is None else self.view.frames(chunk, newest=self._pictures == "newest")

    def _judge(
        self, before: Sequence[Episode], after: Sequence[Episode], labels: np.ndarray, chunks: Sequence[Chunk]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rewards of a step, float64 [n], and which episodes ended it at their goal, bool [n]."""
        nowhere = np.zeros(len(before), dtype=np.bool_)
        if self._reward is None:
            return np.zeros(len(before)), nowhere
        goals = [episode.goal for episode in before if episode.goal is not None]
        transition = Transition.of_chunks(
            chunks,
            observation=stack([episode.observation for episode in after]),
            action=labels,
            past=[episode.path for episode in before],
            step=np.array([episode.step for episode in after]),
            goals=goals if self.task is not None else None,
        )
        successes = nowhere if self.task is None else self.task.success(transition)
        return evaluate(self._reward, transition), successes

    def _observed(self, shown: Any, shown_goal: Any) -> Any:
        return shown if self.task is None else self.task.observe(shown, shown_goal)

    def _episode_info(self, episode: Episode, success: bool) -> dict[str, Any]:
        """Return what the info of a moment says of its episode."""
        begun = {"start": episode.start, "prompt": episode.rollout.prompt} if self._words else {}
        return begun if self.task is None or episode.goal is None else begun | self.task.info(episode.goal, success)

    @contextmanager
    def _in_world(self) -> Iterator[None]:
        """Count the time of what runs inside as the world's."""
        began = time.perf_counter()
        yield
        self.world_seconds += time.perf_counter() - began


def stack(rows: Sequence[Any]) -> Any:
    """Join rows of observations, arrays or tensors or dicts of them, to a new batch [N, ...]."""
    if isinstance(rows[0], Mapping):
        return {name: stack([row[name] for row in rows]) for name in rows[0]}
    if isinstance(rows[0], np.ndarray):
        return np.stack(rows)
    import torch

    return torch.stack(list(rows))


def split(batch: Any) -> list[Any]:
    """Return the rows of a batch [N, ...], which share its memory."""
    if isinstance(batch, Mapping):
        parts = {name: split(part) for name, part in batch.items()}
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
    return list(batch)


def _frames_made(episode: Episode) -> int:
    """Return how many frames the next chunk of an episode has."""
    return FIRST_CHUNK_FRAMES if episode.rollout.chunks == 0 else CHUNK_FRAMES


def _with_newest_frame(chunk: Chunk) -> Chunk:
    return chunk if chunk.frames is None else replace(chunk, frames=chunk.frames[-1:].clone())


def _parts(rows: Sequence[T], most: int | None) -> list[Sequence[T]]:
    """Cut rows into parts of at most so many; one part of all for None."""
    size = most or max(1, len(rows))
    return [rows[first : first + size] for first in range(0, len(rows), size)]
