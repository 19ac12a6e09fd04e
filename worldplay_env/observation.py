"""What an agent is shown of a chunk: the observation, its space, and the info that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from worldplay_env.image import resize_frames
from worldplay_env.world import (
    CHUNK_FRAMES,
    CHUNK_LATENTS,
    MEMORY_LATENTS,
    Chunk,
    Control,
    Rollout,
    World,
    WorldSpec,
)

OBSERVATIONS = ("chunk", "last", "latent")
"""The chunk's frames, the newest frame, or the chunk's latents."""


@dataclass(frozen=True)
class View:
    """Turns chunks into observations.

    Attributes:
        kind: One of `OBSERVATIONS`.
        world: The sizes of the world looked at.
        size: Height and width that frames are scaled to.
        all_frames: Whether every frame is fetched from the device, whatever the observation shows of them.
    """

    kind: str
    world: WorldSpec | World
    size: tuple[int, int]
    all_frames: bool

    @classmethod
    def of(cls, kind: str, world: WorldSpec | World, size: Sequence[int] | None, *, all_frames: bool) -> View:
        """Make a view after checking what a user asked for; raises ValueError."""
        if kind not in OBSERVATIONS:
            raise ValueError(f"unknown observation {kind!r}: known are {', '.join(OBSERVATIONS)}")
        if kind == "latent" and world.latent_shape is None:
            raise ValueError('observation="latent" asks for latents, and this world has none: use "chunk" or "last"')
        height, width = check_size(world.image_size if size is None else size)
        return cls(kind, world, (height, width), all_frames)

    @property
    def space(self) -> spaces.Box:
        """The observation space."""
        if self.kind == "latent":
            assert self.world.latent_shape is not None  # checked when the view was made
            # Not infinity: a world's latents are finite, or the step that made them fails.
            limit = float(np.finfo(np.float32).max)
            return spaces.Box(-limit, limit, self.world.latent_shape, np.float32)
        shape = (*self.size, 3)
        return spaces.Box(0, 255, (CHUNK_FRAMES, *shape) if self.kind == "chunk" else shape, np.uint8)

    def picture(self, rollout: Rollout) -> np.ndarray:
        """Return the start as the agent sees it: a new uint8 array [height, width, 3]."""
        return self.fit(rollout.picture)

    def fit(self, frame: np.ndarray) -> np.ndarray:
        """Return a frame, uint8 [any height, any width, 3], as the agent sees it: a new array [height, width, 3]."""
        import torch

        return resize_frames(torch.tensor(frame)[None], self.size)[0].numpy().copy()

    def frames(self, chunk: Chunk) -> np.ndarray:
        """Return the frames that are needed on the host, the newest last: uint8 [1 or more, height, width, 3]."""
        assert chunk.frames is not None
        frames = chunk.frames if self.all_frames or self.kind == "chunk" else chunk.frames[-1:]
        return resize_frames(frames, self.size).cpu().numpy()

    def of_start(self, rollout: Rollout) -> np.ndarray:
        """Return the first observation of an episode: the start, repeated to fill a chunk."""
        if self.kind == "latent":
            assert rollout.start_latent is not None
            return np.repeat(rollout.start_latent.float().cpu().numpy(), CHUNK_LATENTS, axis=1)
        picture = self.picture(rollout)
        return np.repeat(picture[None], CHUNK_FRAMES, axis=0) if self.kind == "chunk" else picture

    def of_chunk(self, rollout: Rollout, chunk: Chunk, frames: np.ndarray | None) -> np.ndarray:
        """Return the observation after a chunk.

        Args:
            rollout: What made it; its picture fills up chunk 0, which has three frames less.
            chunk: What was made.
            frames: `frames(chunk)`; None if the chunk was not decoded.
        """
        if self.kind == "latent":
            assert chunk.latents is not None
            return chunk.latents.float().cpu().numpy().copy()
        assert frames is not None
        if self.kind == "last":
            return frames[-1].copy()
        if missing := CHUNK_FRAMES - len(frames):
            frames = np.concatenate([np.repeat(self.picture(rollout)[None], missing, axis=0), frames])
        return frames


def start_info(rollout: Rollout) -> dict[str, Any]:
    """Return the info of a reset; keys and types as in `chunk_info`."""
    return _info(
        poses=np.repeat(rollout.pose[None], CHUNK_LATENTS, axis=0),
        labels=np.zeros(CHUNK_LATENTS, dtype=np.int64),
        memory=np.empty(0, dtype=np.int64),
        step=0,
        new_frames=CHUNK_FRAMES,
        frame=0,
    )


def chunk_info(control: Control, chunk: Chunk, step: int, new_frames: int, frame: int) -> dict[str, Any]:
    """Return what is known of a step: new arrays, nothing that differs between two equal runs.

    Args:
        control: The cameras of the chunk.
        chunk: What was made.
        step: Steps of the episode so far.
        new_frames: Frames at the end of a chunk observation that are new.
        frame: Frames of the episode so far.
    """
    return _info(control.poses, control.labels, chunk.memory, step, new_frames, frame)


def _info(
    poses: np.ndarray, labels: np.ndarray, memory: np.ndarray, step: int, new_frames: int, frame: int
) -> dict[str, Any]:
    padded = np.full(MEMORY_LATENTS, -1, dtype=np.int64)
    padded[: len(memory)] = memory
    return {
        "poses": np.array(poses, dtype=np.float64),
        "labels": np.array(labels, dtype=np.int64),
        "memory": padded,
        "step": step,
        "new_frames": new_frames,
        "frame": frame,
    }


def check_size(size: Sequence[int]) -> tuple[int, int]:
    """Return a height and width, or raise ValueError if `size` is not two positive whole numbers."""
    whole = isinstance(size, tuple | list) and all(
        isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0 for side in size
    )
    if not whole or len(size) != 2:
        raise ValueError(f"a size is two positive whole numbers (height, width), got {size!r}")
    return int(size[0]), int(size[1])
