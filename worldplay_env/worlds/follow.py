"""Controls of a path through a world: the next chunk's by its actions, and all chunks' by their poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worldplay_env.control.actions import label_of_keys
from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.control.held_keys import HELD_KEYS
from worldplay_env.worlds.base import Control, Rollout


def next_control(rollout: Rollout, labels: int | Sequence[int] | np.ndarray) -> Control:
    """Return the cameras of a rollout's next chunk.

    Args:
        rollout: At the chunk before; its world says how far an action goes.
        labels: One label 0..80 that is held for the chunk, or one for each latent frame.
    """
    world = rollout.world
    held = np.broadcast_to(np.asarray(labels), world.layout.latents)
    return Control.of_labels(rollout.pose, held, first=rollout.chunks == 0, motion=world.motion)


def keys_control(rollout: Rollout, keys: Sequence[int] | np.ndarray) -> Control:
    """Return the control of a rollout's next chunk, during which keys are held.

    In its cameras and labels opposite keys cancel each other; its keys are those that were given.

    Args:
        rollout: At the chunk before.
        keys: [8], 1 for each of `HELD_KEYS` that is held, else 0.
    """
    label = label_of_keys(key for key, held in zip(HELD_KEYS, keys, strict=True) if held)
    return replace(next_control(rollout, label), keys=np.tile(keys, (rollout.world.layout.latents, 1)))


def path_controls(
    poses: np.ndarray, labels: np.ndarray, latents: int, intrinsics: np.ndarray | None = None
) -> list[Control]:
    """Split a path into the cameras of its chunks; the last chunk is completed by standing still.

    Args:
        poses: Float64 [N, 4, 4], one a latent frame, the start's first.
        labels: Int64 [N], 0..80.
        latents: Latent frames a chunk (`ChunkLayout.latents`).
        intrinsics: Float64 [N, 3, 3], normalised; by default `DEFAULT_INTRINSICS` throughout.
    """
    if intrinsics is None:
        intrinsics = np.broadcast_to(DEFAULT_INTRINSICS, (len(poses), 3, 3))
    missing = -len(poses) % latents
    poses, intrinsics = (
        np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) for part in (poses, intrinsics)
    )
    labels = np.concatenate([labels, np.zeros(missing, dtype=np.int64)])
    chunks = [slice(first, first + latents) for first in range(0, len(poses), latents)]
    return [Control(poses[chunk], labels[chunk], intrinsics[chunk]) for chunk in chunks]
