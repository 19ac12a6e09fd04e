"""Paths through scenes before they are rendered: cameras, actions, and the memory that each chunk will have."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from worldplay_env.control.actions import NUM_ACTIONS, NUM_CLASSES, opposite_labels
from worldplay_env.control.camera import view_matrices
from worldplay_env.control.layout import LAYOUT
from worldplay_env.models.worldplay import memory
from worldplay_env.training.scene_clips import SceneClips, held_labels
from worldplay_env.worlds.scene.build import Scene

_SINGLE_MOVES = (1, 2, 3, 4, NUM_CLASSES, 2 * NUM_CLASSES, 3 * NUM_CLASSES, 4 * NUM_CLASSES)
"""Labels with one key down: the four turns, then the four translations."""
_TRIES = 4
"""Paths that are tried in a scene; the one that walls stop least is kept."""
_SHARD = 64
"""Paths that are planned together, and later rendered and encoded together."""


def memory_length(chunk: int) -> int:
    """Return the length of a chunk's memory in latent frames: 0, 4, 8, 12 or 16."""
    return min(chunk * LAYOUT.latents, memory.MEMORY)


@dataclass(frozen=True)
class Plan:
    """N paths of T = 4 chunks latent frames before they are rendered, one through each scene.

    Attributes:
        scenes: N scenes.
        poses: float64 [N, T, 4, 4], in their scenes' coordinates.
        labels: int64 [N, T] action labels.
        memory: int64 [N, chunks, 16] the latent frames that a chunk sees, as in `LatentPaths`.
    """

    scenes: list[Scene]
    poses: np.ndarray
    labels: np.ndarray
    memory: np.ndarray


def plan(seeds: Sequence[int], chunks: int, size: tuple[int, int], seed: int = 0, second: float = 0.0) -> Plan:
    """Walk one path through each scene and choose each chunk's memory; a pure function of its arguments.

    The scenes are all of one edition: with a chance of `second`, of the second one.
    """
    rng = np.random.default_rng((seed, seeds[0]))
    edition = 2 if np.random.default_rng((seeds[0], seed)).random() < second else 1
    clips = SceneClips(seeds, size, torch.device("cpu"), edition=edition)
    which = np.repeat(np.arange(len(seeds)), _TRIES)
    starts = clips.begin(rng, which, level=0.85)
    moves = path_labels(rng, len(seeds), LAYOUT.latents * chunks - 1, _TRIES)  # [scenes x tries, T - 1]
    path = clips.walk(which, starts, moves)
    stopped = path.blocked.sum(1).reshape(-1, _TRIES)
    chosen = stopped.argmin(1) + _TRIES * np.arange(len(seeds))
    poses, blocked, moves = path.poses[chosen], path.blocked[chosen], moves[chosen]
    labels = np.zeros(poses.shape[:2], np.int64)
    # What a wall stopped did not move: its label says so too, as that of the true motion would.
    labels[:, 1:] = np.where(blocked, moves % NUM_CLASSES, moves)
    viewmats = view_matrices(poses)
    remembered = np.zeros((len(seeds), chunks, memory.MEMORY), np.int64)
    for row, views in zip(remembered, viewmats, strict=True):
        for chunk in range(1, chunks):
            indices = memory.select(views[: LAYOUT.latents * (chunk + 1)])
            row[chunk, : len(indices)] = indices
    return Plan(clips.scenes, poses, labels, remembered)


def path_labels(rng: np.random.Generator, count: int, steps: int, tries: int = 1) -> np.ndarray:
    """Draw action labels int64 [count x tries, steps]: wandering, out and back, turning in place, circling.

    The tries of one path are of one kind, so that choosing among them by collisions favours no kind.
    """
    kinds = (_wander, _wander, _wander, _return, _return, _return, _turn, _circle, _change)
    drawn = rng.integers(len(kinds), size=count).repeat(tries)
    return np.stack([kinds[kind](rng, steps) for kind in drawn])


def undo(labels: np.ndarray) -> np.ndarray:
    """Return the way back along labels [n]: the opposite labels in reverse order."""
    return opposite_labels(labels[::-1])


def _held(rng: np.random.Generator) -> int:
    """Draw a label: often a single move, sometimes none, else any of them."""
    chance = rng.random()
    if chance < 0.45:
        return int(rng.choice(_SINGLE_MOVES))
    return 0 if chance < 0.52 else int(rng.integers(NUM_ACTIONS))


def _wander(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Hold each action for one to three chunks; actions change between chunks, as a player's do."""
    labels: list[int] = []
    while len(labels) < steps + 1:
        labels += [_held(rng)] * (LAYOUT.latents * int(rng.integers(1, 4)))
    return np.array(labels[1 : steps + 1])  # chunk 0 has three motions


def _return(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Go out, come back the same way, and go on from there."""
    out = _wander(rng, int(rng.integers(LAYOUT.latents, max(steps // 2, LAYOUT.latents) + 1)))
    if rng.random() < 0.4:  # one action all the way: the plainest out and back
        out[:] = rng.choice(_SINGLE_MOVES)
    path = np.concatenate([out, undo(out), _wander(rng, steps)])
    return path[:steps]


def _turn(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Turn one way for long, then back."""
    out = np.full(int(rng.integers(steps // 3 + 1, steps + 2)), rng.choice((1, 2)))
    return np.concatenate([out, undo(out), undo(out)])[:steps]


def _circle(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Walk in a circle: a translation and a turn held together."""
    label = int(rng.integers(1, NUM_CLASSES)) * NUM_CLASSES + int(rng.choice((1, 2)))
    return np.full(steps, label)


def _change(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Change the action at any latent frame, as pose strings may."""
    return held_labels(rng, 1, steps)[0]


@contextmanager
def plans(
    seeds: Sequence[int],
    chunks: int,
    size: tuple[int, int],
    seed: int = 0,
    workers: int = 0,
    second: float = 0.0,
) -> Iterator[Iterator[Plan]]:
    """Give the plans of some scenes at a time, in order.

    With workers, so many processes plan from now on, ahead of what is asked for, until the context ends; with none,
    this one plans what is asked for.
    """
    shards = [seeds[first : first + _SHARD] for first in range(0, len(seeds), _SHARD)]
    make = partial(plan, chunks=chunks, size=size, seed=seed, second=second)
    if not workers:
        yield map(make, shards)
        return
    # Spawned, not forked: this process may hold a CUDA context, and threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map(make, shards)
    finally:
        # Otherwise they would go on with all of it while the GPU, which wants the cores, trains.
        pool.shutdown(wait=False, cancel_futures=True)
