"""Moving through scenes: what stops a camera, the true poses of a path, and the poses between two latent frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from worldplay_env.control.actions import DEFAULT_SCALE, NUM_ACTIONS, motion_of
from worldplay_env.control.camera import MotionScale, rebase
from worldplay_env.control.layout import LAYOUT, ChunkLayout
from worldplay_env.worlds.scene.build import Scene
from worldplay_env.worlds.scene.collision import MARGIN, is_free

_STILL = 1e-9
"""A way shorter than this, in units, is no motion: rounding leaves about 1e-16 of a turn on the spot."""
_MOST_LOOKS = 256
"""Enough for any way that ends in a scene; a longer one ends out of bounds."""


@cache
def motion_table(scale: MotionScale = DEFAULT_SCALE) -> np.ndarray:
    """Return forward, right (units), yaw and pitch (radians) of each action label: float64 [81, 4], read-only."""
    motions = [motion_of(label, scale) for label in range(NUM_ACTIONS)]
    table = np.array([(motion.forward, motion.right, motion.yaw, motion.pitch) for motion in motions])
    table.setflags(write=False)
    return table


def walk(
    scenes: Sequence[Scene], starts: np.ndarray, motions: np.ndarray, margin: float = MARGIN
) -> tuple[np.ndarray, np.ndarray]:
    """Move a camera through each scene; a motion into a solid loses its translation and keeps its rotation.

    Args:
        scenes: B scenes (one may occur several times).
        starts: Float64 [B, 4, 4] first poses in the scenes' coordinates.
        motions: Float64 [B, T, 4]: forward, right (units), yaw, pitch (radians), such as `motion_table()[labels]`.
        margin: How close to a solid a camera may come.

    Returns:
        The true poses, float64 [B, T + 1, 4, 4], and which motions were stopped, bool [B, T].
    """
    return follow(scenes, starts, motion_matrices(motions), margin)


def follow(
    scenes: Sequence[Scene], starts: np.ndarray, steps: np.ndarray, margin: float = MARGIN
) -> tuple[np.ndarray, np.ndarray]:
    """Move a camera as `walk` does, by any rigid matrices of any length; a way is free if all of it is.

    Args:
        scenes: B scenes.
        starts: Float64 [B, 4, 4] first poses in the scenes' coordinates.
        steps: Float64 [B, T, 4, 4]: each pose's inverse times the next one.
        margin: How close to a solid a camera may come.

    Returns:
        The true poses, float64 [B, T + 1, 4, 4], and which motions were stopped, bool [B, T].
    """
    solids = np.stack([scene.solids for scene in scenes])
    bounds = np.stack([scene.bounds for scene in scenes])
    poses = [np.asarray(starts, np.float64)]
    blocked = np.zeros(steps.shape[:2], bool)
    for i in range(steps.shape[1]):
        pose = poses[-1] @ steps[:, i]
        before, way = poses[-1][:, :3, 3], pose[:, :3, 3] - poses[-1][:, :3, 3]
        # No farther apart than the margin around a solid: one look is enough for a motion of the actions.
        looks = min(int(np.ceil(np.linalg.norm(way, axis=1).max() / margin)) or 1, _MOST_LOOKS)
        free = [is_free(solids, bounds, before + share * way, margin) for share in np.arange(1, looks + 1) / looks]
        moves = np.abs(way).max(1) > _STILL
        blocked[:, i] = moves & ~np.all(free, axis=0)
        pose[blocked[:, i], :3, 3] = before[blocked[:, i]]
        poses.append(pose)
    return np.stack(poses, axis=1), blocked


def motion_matrices(motions: np.ndarray) -> np.ndarray:
    """Return what `Motion.matrix` gives for each of the motions [..., 4]: float64 [..., 4, 4]."""
    forward, right, yaw, pitch = np.moveaxis(np.asarray(motions, np.float64), -1, 0)
    rotation = _about_y(yaw) @ _about_x(pitch)
    matrices = np.zeros((*forward.shape, 4, 4))
    matrices[..., :3, :3] = rotation
    matrices[..., :3, 3] = rotation[..., 0] * right[..., None] + rotation[..., 2] * forward[..., None]
    matrices[..., 3, 3] = 1.0
    return matrices


def between(poses: np.ndarray, steps: int = LAYOUT.images) -> np.ndarray:
    """Return the cameras of the images of a path: the first pose, then each motion in `steps` equal parts.

    The rotation turns evenly about its one axis and the position moves evenly on a straight line.

    Args:
        poses: Rigid camera-to-world matrices [..., N, 4, 4], one a latent frame.
        steps: Images a latent frame after the first (spec section 1).

    Returns:
        Float64 [..., 1 + steps (N - 1), 4, 4].
    """
    poses = np.asarray(poses, np.float64)
    before, after = poses[..., :-1, :, :], poses[..., 1:, :, :]
    turn = before[..., :3, :3].swapaxes(-1, -2) @ after[..., :3, :3]  # [..., N - 1, 3, 3]
    axis, angle = _axis_angle(turn)
    share = np.arange(1, steps + 1) / steps
    result = np.zeros((*before.shape[:-2], steps, 4, 4))
    partial = _about(axis[..., None, :], angle[..., None] * share)  # [..., N - 1, steps, 3, 3]
    result[..., :3, :3] = before[..., None, :3, :3] @ partial
    way = after[..., :3, 3] - before[..., :3, 3]
    result[..., :3, 3] = before[..., None, :3, 3] + share[:, None] * way[..., None, :]
    result[..., 3, 3] = 1.0
    result[..., -1, :, :] = after
    images = result.reshape(*poses.shape[:-3], -1, 4, 4)
    return np.concatenate([poses[..., :1, :, :], images], axis=-3)


def images_of(poses: np.ndarray, layout: ChunkLayout) -> np.ndarray:
    """Return the cameras of the images of a rollout's first N latent frames [N, 4, 4]: float64 [F, 4, 4]."""
    return np.concatenate([np.repeat(poses[:1], layout.start_images - 1, axis=0), between(poses, layout.images)])


def from_start(poses: np.ndarray, start: np.ndarray, scene_start: np.ndarray) -> np.ndarray:
    """Return poses [N, 4, 4] of a rollout that began at `start`, in a scene where it began at `scene_start`."""
    return scene_start @ rebase(poses, start)


def _about_y(angle: np.ndarray) -> np.ndarray:
    cosine, sine, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = (cosine, zero, sine, zero, one, zero, -sine, zero, cosine)
    return np.stack(rows, -1).reshape(*angle.shape, 3, 3)


def _about_x(angle: np.ndarray) -> np.ndarray:
    cosine, sine, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = (one, zero, zero, zero, cosine, -sine, zero, sine, cosine)
    return np.stack(rows, -1).reshape(*angle.shape, 3, 3)


def _axis_angle(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit axis [..., 3] and angle [...] of rotations well short of half a turn."""
    twist = np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        -1,
    )
    length = np.linalg.norm(twist, axis=-1)
    angle = np.arctan2(length / 2, (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2)
    return twist / np.maximum(length, 1e-12)[..., None], angle


def _about(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return the rotations [..., 3, 3] by `angle` about unit axes [..., 3] (Rodrigues)."""
    axis = np.broadcast_to(axis, (*angle.shape, 3))
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*angle.shape, 3, 3)
    sine, versine = np.sin(angle)[..., None, None], (1 - np.cos(angle))[..., None, None]
    return np.eye(3) + sine * cross + versine * (cross @ cross)
