"""The fixed suite: collision-free paths through a scene, functions of its seed.

A path begins where the scene's own start is. It is made of held actions, drawn with the scene's seed; one that a
wall would stop, or that would look further up or down than `MOST_PITCH`, is passed over for the next one drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from worldplay_env.control.actions import DEFAULT_SCALE, NUM_ACTIONS, action_label, opposite_labels
from worldplay_env.control.camera import MotionScale, rebase
from worldplay_env.control.layout import LAYOUT, ChunkLayout
from worldplay_env.worlds.base import Control
from worldplay_env.worlds.follow import path_controls
from worldplay_env.worlds.scene.build import Scene
from worldplay_env.worlds.scene.walk import motion_table, walk

SHORT_CHUNKS = 4
LONG_CHUNKS = 16
"""Half of them lead out, half back."""
DRIFT_CHUNKS = 60
"""A minute, of a world with chunks of a second."""
MOST_PITCH = np.radians(20.0)
"""How far up or down a path looks, but for the paths of single actions."""

SINGLE_MOVES = (0, *(action_label(translation, 0) for translation in range(1, 5)), *range(1, 5))
"""Standing still, the four single translations and the four single rotations."""

_TURNED = (48.0, 72.0)
"""Degrees that the way out turns to one side, between these."""
_YAWS = (1, 2)
_MOVING = tuple(range(1, NUM_ACTIONS))
_TRANSLATIONS = tuple(action_label(translation, 0) for translation in range(1, 9))


@dataclass(frozen=True)
class Path:
    """A camera's way through a scene, whole chunks long.

    Attributes:
        poses: float64 [N, 4, 4] camera-to-world in the scene's coordinates, one a latent frame.
        labels: int64 [N] the actions that led there; 0 for the first.
        layout: Of the chunks.
    """

    poses: np.ndarray
    labels: np.ndarray
    layout: ChunkLayout = LAYOUT

    def controls(self) -> list[Control]:
        """Return the cameras of each chunk, for a rollout that begins at the identity as those of the env do."""
        poses = rebase(self.poses, self.poses[0])
        poses[0] = np.eye(4)
        return path_controls(poses, self.labels, self.layout.latents)


def short_path(scene: Scene, layout: ChunkLayout = LAYOUT, motion: MotionScale = DEFAULT_SCALE) -> Path:
    """Return a path of four chunks that never stands still: any of the 80 moving actions, each held a while."""
    return _wander(scene, np.random.default_rng((scene.seed, 1)), SHORT_CHUNKS, _MOVING, layout, motion)


def wandering_path(scene: Scene, layout: ChunkLayout = LAYOUT, motion: MotionScale = DEFAULT_SCALE) -> Path:
    """Return a path of 60 chunks: any of the 81 actions, each held a while."""
    return _wander(scene, np.random.default_rng((scene.seed, 2)), DRIFT_CHUNKS, range(NUM_ACTIONS), layout, motion)


def turn_frame(layout: ChunkLayout) -> int:
    """Return the last frame before the way back, of a film of `out_and_back`."""
    return layout.start_images - 1 + layout.images * (LONG_CHUNKS * layout.latents // 2)


def mirrored_frames(layout: ChunkLayout) -> np.ndarray:
    """Return the frame on the way out that shows the pose of each frame of a film of `out_and_back`: int64 [F]."""
    last = turn_frame(layout) - layout.images  # at the turn the pose stands still for one latent frame
    frames = np.arange(layout.images_before(LONG_CHUNKS))
    return np.minimum(frames, 2 * last + layout.images - frames).clip(max=last)


def out_and_back(scene: Scene, layout: ChunkLayout = LAYOUT, motion: MotionScale = DEFAULT_SCALE) -> Path:
    """Return a path of 16 chunks whose second half takes the first half's poses in reverse.

    The way out turns to one side by some 60 degrees and moves in between, so that the content of the starting picture
    goes out of sight and comes back. Each action either moves or turns: opposite actions lead back exactly.
    """
    rng = np.random.default_rng((scene.seed, 3))
    yaw = int(rng.choice(_YAWS))
    steps = LONG_CHUNKS * layout.latents // 2 - 1
    least, most = (round(degrees / motion.degrees) for degrees in _TURNED)
    turning = int(rng.integers(least, most + 1))
    poses, labels = [scene.start], [0]
    while len(labels) <= steps:
        left, turns_left = steps + 1 - len(labels), turning - labels.count(yaw)
        moves = _TRANSLATIONS if rng.random() >= turns_left / left else ()
        length = min(int(rng.integers(2, 5)), left)
        candidates = [*rng.permutation(moves).astype(int), yaw] if moves else [yaw]
        _extend(scene, poses, labels, candidates, length, motion)
    back = opposite_labels(np.array(labels[:0:-1]))
    return Path(np.stack([*poses, *poses[::-1]]), np.array([*labels, 0, *back]), layout)


def held_path(
    scene: Scene, label: int, layout: ChunkLayout = LAYOUT, motion: MotionScale = DEFAULT_SCALE
) -> Path | None:
    """Return the path of a first chunk that holds one action for all its motions; None if something is in its way."""
    labels = np.full((1, layout.latents - 1), label)
    poses, blocked = walk([scene], scene.start[None], motion_table(motion)[labels])
    return None if blocked.any() else Path(poses[0], np.append(0, labels[0]), layout)


def _wander(
    scene: Scene,
    rng: np.random.Generator,
    chunks: int,
    actions: Iterable[int],
    layout: ChunkLayout,
    motion: MotionScale,
) -> Path:
    steps = chunks * layout.latents - 1
    poses, labels = [scene.start], [0]
    actions = np.array(list(actions))
    while len(labels) <= steps:
        length = min(int(rng.integers(2, 7)), steps + 1 - len(labels))
        _extend(scene, poses, labels, rng.permutation(actions).tolist(), length, motion)
    return Path(np.stack(poses), np.array(labels), layout)


def _extend(
    scene: Scene,
    poses: list[np.ndarray],
    labels: list[int],
    candidates: list[int],
    length: int,
    motion: MotionScale,
) -> None:
    """Add `length` latent frames of the first candidate that can be held that long; turning aside always can."""
    for label in candidates:
        way, blocked = walk([scene], poses[-1][None], motion_table(motion)[np.full((1, length), label)])
        pitch = np.arcsin(np.clip(way[0, :, 1, 2], -1, 1))
        if not blocked.any() and (label in _YAWS or np.abs(pitch).max() <= MOST_PITCH):
            poses.extend(way[0, 1:])
            labels.extend([label] * length)
            return
    raise AssertionError(f"no way on from a pose of scene {scene.seed}: turning aside must be a candidate")
