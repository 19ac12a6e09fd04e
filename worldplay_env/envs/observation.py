"""Observations: their encoding from chunks, their spaces, and infos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from worldplay_env.media.image import resize_frames
from worldplay_env.worlds.base import (
    Chunk,
    Control,
    Rollout,
    World,
    WorldSpec,
)
from worldplay_env.worlds.transfer import fetch

if TYPE_CHECKING:
    import torch

    from worldplay_env.envs.transition import Goal

OBSERVATIONS = ("chunk", "last", "latent")
"""The chunk's frames, the newest frame, or the chunk's latents."""


@dataclass(frozen=True)
class ObservationEncoder:
    """Turns chunks into observations, of N worlds at once and on their device.

    Attributes:
        kind: One of `OBSERVATIONS`.
        world: The world, or its spec: sizes of frames and latents.
        size: Height and width of frames after scaling.
        every: The observation keeps every so many frames of a chunk, counted back from the newest; divides 16.
        channel_first: Whether frames are [3, height, width].
    """

    kind: str
    world: WorldSpec | World
    size: tuple[int, int]
    every: int = 1
    channel_first: bool = False

    @classmethod
    def of(
        cls,
        kind: str,
        world: WorldSpec | World,
        size: Sequence[int] | None,
        *,
        every: int = 1,
        channel_first: bool = False,
    ) -> ObservationEncoder:
        """Return an encoder; ValueError for an argument that is refused."""
        if kind not in OBSERVATIONS:
            raise ValueError(f"unknown observation {kind!r}: known are {', '.join(OBSERVATIONS)}")
        if kind == "latent" and world.latent_shape is None:
            raise ValueError('observation="latent" asks for latents, and this world has none: use "chunk" or "last"')
        images = world.layout.chunk_images
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1 or images % every:
            raise ValueError(f"every must be a whole number that divides {images}, got {every!r}")
        if every != 1 and kind != "chunk":
            raise ValueError(f'every={every} picks frames of a chunk: it goes with observation="chunk", not {kind!r}')
        if not isinstance(channel_first, bool | np.bool_):
            raise ValueError(f"channel_first must be True or False, got {channel_first!r}")
        height, width = check_size(world.image_size if size is None else size)
        return cls(kind, world, (height, width), int(every), bool(channel_first))

    @property
    def space(self) -> spaces.Box:
        """The space of one world's observations."""
        if self.kind == "latent":
            assert self.world.latent_shape is not None  # checked when the view was made
            return unbounded_box(self.world.latent_shape)
        shape = self._frame_shape
        return spaces.Box(0, 255, (self._shown_frames, *shape) if self.kind == "chunk" else shape, np.uint8)

    @property
    def goal_space(self) -> spaces.Box:
        """The space of one world's goals: one frame, or one latent frame (channels, 1, rows, columns)."""
        if self.kind == "latent":
            assert self.world.latent_shape is not None
            channels, _, *grid = self.world.latent_shape
            return unbounded_box((channels, 1, *grid))
        return spaces.Box(0, 255, self._frame_shape, np.uint8)

    @property
    def _shown_frames(self) -> int:
        return self.world.layout.chunk_images // self.every

    @property
    def _frame_shape(self) -> tuple[int, int, int]:
        return (3, *self.size) if self.channel_first else (*self.size, 3)

    def of_starts(self, rollouts: Sequence[Rollout], device: torch.device) -> torch.Tensor:
        """Return the first observations of N episodes, the start repeated to fill a chunk: new, [N, *space.shape]."""
        import torch

        if self.kind == "latent":
            latents = [rollout.start_latent for rollout in rollouts]
            return torch.stack(
                [one.float().expand(-1, self.world.layout.latents, -1, -1) for one in latents if one is not None]
            )
        shown = self._arranged(torch.stack([_picture(rollout, device) for rollout in rollouts]))  # [N, H, W, 3]
        if self.kind == "last":
            return shown
        return shown[:, None].repeat(1, self._shown_frames, 1, 1, 1)

    def of_chunks(self, rollouts: Sequence[Rollout], chunks: Sequence[Chunk]) -> torch.Tensor:
        """Return the observations of N worlds after a chunk of each: a new tensor [N, *space.shape].

        Args:
            rollouts: Their start pictures fill up chunk 0, which has three frames less.
            chunks: One for each rollout, decoded unless the observation is latents.
        """
        import torch

        if self.kind == "latent":
            return torch.stack([chunk.latents for chunk in chunks if chunk.latents is not None]).float()
        if self.kind == "last":
            return self._arranged(torch.stack([chunk.frames[-1] for chunk in chunks if chunk.frames is not None]))
        return self._arranged(
            torch.stack([self._picked(rollout, chunk) for rollout, chunk in zip(rollouts, chunks, strict=True)])
        )

    def of_goals(self, goals: Sequence[Goal], device: torch.device) -> torch.Tensor:
        """Return the "goal" entries of N observations: a new tensor [N, *goal_space.shape]."""
        import torch

        if self.kind == "latent":
            return torch.stack([torch.tensor(goal.latent) for goal in goals]).to(device)
        return self._arranged(torch.stack([torch.tensor(goal.picture) for goal in goals]).to(device))

    def new_frames(self, made: int) -> int:
        """Return how many frames at the end of a chunk observation are new, of a chunk of `made` frames, 13 or 16."""
        return -(-made // self.every)

    def frames(self, chunk: Chunk, *, newest: bool = False) -> np.ndarray:
        """Return a chunk's rendered frames, or the newest alone: uint8 [16, 13 or 1, height, width, 3]."""
        assert chunk.frames is not None
        return fetch(resize_frames(chunk.frames[-1:] if newest else chunk.frames, self.size), own=True)

    def fit(self, frame: np.ndarray) -> np.ndarray:
        """Return a frame, uint8 [any height, any width, 3], scaled for rendering: a new array [height, width, 3]."""
        import torch

        return resize_frames(torch.tensor(frame)[None], self.size)[0].numpy().copy()

    def _picked(self, rollout: Rollout, chunk: Chunk) -> torch.Tensor:
        """Return the frames shown of a chunk, in the world's own size: uint8 [16 // every, H, W, 3]."""
        import torch

        assert chunk.frames is not None
        frames = chunk.frames
        if missing := self.world.layout.chunk_images - len(frames):
            picture = _picture(rollout, frames.device)
            frames = torch.cat([picture[None].expand(missing, -1, -1, -1), frames])
        return frames[self.every - 1 :: self.every]

    def _arranged(self, frames: torch.Tensor) -> torch.Tensor:
        """Scale frames, uint8 [..., H, W, 3], and order their axes as they are shown."""
        lead = frames.shape[:-3]
        frames = resize_frames(frames.flatten(0, -4), self.size).unflatten(0, lead)
        return frames.movedim(-1, -3).contiguous() if self.channel_first else frames


def _picture(rollout: Rollout, device: torch.device) -> torch.Tensor:
    """Return a rollout's start picture on a device: a new tensor, uint8 [H, W, 3]."""
    import torch

    return torch.tensor(rollout.picture, device=device)


def unbounded_box(shape: tuple[int, ...]) -> spaces.Box:
    """Return the space of finite float32 arrays of a shape."""
    limit = float(np.finfo(np.float32).max)
    return spaces.Box(-limit, limit, shape, np.float32)


def start_info(rollout: Rollout, new_frames: int) -> dict[str, Any]:
    """Return the info of a reset, whose chunk observation has `new_frames`; keys and types as in `chunk_info`."""
    layout = rollout.world.layout
    return _info(
        layout.memory,
        poses=np.repeat(rollout.pose[None], layout.latents, axis=0),
        labels=np.zeros(layout.latents, dtype=np.int64),
        memory=np.empty(0, dtype=np.int64),
        step=0,
        new_frames=new_frames,
        frame=0,
    )


def chunk_info(control: Control, chunk: Chunk, step: int, new_frames: int, frame: int, memory: int) -> dict[str, Any]:
    """Return the info of a step: new arrays, equal in two equal runs.

    Args:
        control: The poses and labels of the step.
        chunk: The generated chunk.
        step: Steps of the episode so far.
        new_frames: Frames at the end of a chunk observation that are new.
        frame: Frames of the episode so far.
        memory: The length of the entry "memory" (`ChunkLayout.memory`).
    """
    return _info(memory, chunk.poses, control.labels, chunk.memory, step, new_frames, frame)


def _info(
    longest: int, poses: np.ndarray, labels: np.ndarray, memory: np.ndarray, step: int, new_frames: int, frame: int
) -> dict[str, Any]:
    padded = np.full(longest, -1, dtype=np.int64)
    padded[: len(memory)] = memory
    return {
        "poses": np.array(poses, dtype=np.float64),
        "labels": np.array(labels, dtype=np.int64),
        "memory": padded,
        "step": step,
        "new_frames": new_frames,
        "frame": frame,
    }


def render_rate(spec: WorldSpec, render_mode: str | None) -> int:
    """Return the real-time rate of `render`: with "rgb_array", one frame a step, 1; else the video's."""
    return max(1, round(spec.fps / spec.layout.chunk_images)) if render_mode == "rgb_array" else spec.fps


def check_size(size: Sequence[int]) -> tuple[int, int]:
    """Return a height and width, or raise ValueError if `size` is not two positive whole numbers."""
    whole = isinstance(size, tuple | list) and all(
        isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0 for side in size
    )
    if not whole or len(size) != 2:
        raise ValueError(f"a size is two positive whole numbers (height, width), got {size!r}")
    return int(size[0]), int(size[1])
