"""The fixed suite: collision-free paths through a scene, functions of its seed.

A path begins where the scene's own start is. It is made of held actions, drawn with the scene's seed; one that a
wall would stop, or that would look further up or down than `MOST_PITCH`, is passed over for the next one drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from worldplay_env.control.actions import NUM_ACTIONS, action_label, opposite_labels
from worldplay_env.control.camera import rebase
from worldplay_env.worlds.base import CHUNK_LATENTS, Control
from worldplay_env.worlds.follow import path_controls
from worldplay_env.worlds.scene.build import Scene
from worldplay_env.worlds.scene.walk import MOTIONS, walk

SHORT_CHUNKS = 4
LONG_CHUNKS = 16
"""Half of them lead out, half back."""
DRIFT_CHUNKS = 60
"""A minute."""
MOST_PITCH = np.radians(20.0)
"""How far up or down a path looks, but for the paths of single actions."""

SINGLE_MOVES = (0, *(action_label(translation, 0) for translation in range(1, 5)), *range(1, 5))
"""Standing still, the four single translations and the four single rotations."""

_YAWS = (1, 2)
_MOVING = tuple(range(1, NUM_ACTIONS))
_TRANSLATIONS = tuple(action_label(translation, 0) for translation in range(1, 9))


@dataclass(frozen=True)
class Path:
    """A camera's way through a scene, whole chunks long.

    Attributes:
        poses: float64 [N, 4, 4] camera-to-world in the scene's coordinates, one a latent frame.
        labels: int64 [N] the actions that led there; 0 for the first.
    """

    poses: np.ndarray
    labels: np.ndarray

    def controls(self) -> list[Control]:
        """Return the cameras of each chunk, for a rollout that begins at the identity as those of the env do."""
        poses = rebase(self.poses, self.poses[0])
        poses[0] = np.eye(4)
        return path_controls(poses, self.labels, CHUNK_LATENTS)


def short_path(scene: Scene) -> Path:
    """Return a path of four chunks that never stands still: any of the 80 moving actions, each held a while."""
    return _wander(scene, np.random.default_rng((scene.seed, 1)), SHORT_CHUNKS, _MOVING)


def wandering_path(scene: Scene) -> Path:
    """Return a path of a minute: any of the 81 actions, each held a while."""
    return _wander(scene, np.random.default_rng((scene.seed, 2)), DRIFT_CHUNKS, range(NUM_ACTIONS))


def out_and_back(scene: Scene) -> Path:
    """Return a path of 16 chunks whose second half takes the first half's poses in reverse.

    The way out turns to one side for some 20 of its 31 latent frames (60 degrees) and moves in between, so that
    the content of the starting picture goes out of sight and comes back. Each action either moves or turns: opposite
    actions lead back exactly.
    """
    rng = np.random.default_rng((scene.seed, 3))
    yaw = int(rng.choice(_YAWS))
    steps = LONG_CHUNKS * CHUNK_LATENTS // 2 - 1
    turning = int(rng.integers(16, 25))
    poses, labels = [scene.start], [0]
    while len(labels) <= steps:
        left, turns_left = steps + 1 - len(labels), turning - labels.count(yaw)
        moves = _TRANSLATIONS if rng.random() >= turns_left / left else ()
        length = min(int(rng.integers(2, 5)), left)
        candidates = [*rng.permutation(moves).astype(int), yaw] if moves else [yaw]
        _extend(scene, poses, labels, candidates, length)
    back = opposite_labels(np.array(labels[:0:-1]))
    return Path(np.stack([*poses, *poses[::-1]]), np.array([*labels, 0, *back]))


def held_path(scene: Scene, label: int) -> Path | None:
    """Return the path of one chunk that holds one action for its three motions; None if something is in its way."""
    labels = np.full((1, CHUNK_LATENTS - 1), label)
    poses, blocked = walk([scene], scene.start[None], MOTIONS[labels])
    return None if blocked.any() else Path(poses[0], np.append(0, labels[0]))


def _wander(scene: Scene, rng: np.random.Generator, chunks: int, actions: Iterable[int]) -> Path:
    steps = chunks * CHUNK_LATENTS - 1
    poses, labels = [scene.start], [0]
    actions = np.array(list(actions))
    while len(labels) <= steps:
        length = min(int(rng.integers(2, 7)), steps + 1 - len(labels))
        _extend(scene, poses, labels, rng.permutation(actions).tolist(), length)
    return Path(np.stack(poses), np.array(labels))


def _extend(scene: Scene, poses: list[np.ndarray], labels: list[int], candidates: list[int], length: int) -> None:
    """Add `length` latent frames of the first candidate that can be held that long; turning aside always can."""
    for label in candidates:
        way, blocked = walk([scene], poses[-1][None], MOTIONS[np.full((1, length), label)])
        pitch = np.arcsin(np.clip(way[0, :, 1, 2], -1, 1))
        if not blocked.any() and (label in _YAWS or np.abs(pitch).max() <= MOST_PITCH):
            poses.extend(way[0, 1:])
            labels.extend([label] * length)
            return
    raise AssertionError(f"no way on from a pose of scene {scene.seed}: turning aside must be a candidate")
