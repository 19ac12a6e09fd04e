"""Paths through scenes as latents on the device: planned by many processes, rendered and encoded in large batches.

A path has everything that a chunk is trained from: latents of its true video, cameras, action labels, the memory
frames that `memory.select` chooses at each chunk, and the scene's caption as tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldplay_env.control.camera import DEFAULT_INTRINSICS, view_matrices
from worldplay_env.control.layout import LAYOUT
from worldplay_env.evaluate.metrics import visible
from worldplay_env.models.codec import Codec
from worldplay_env.models.config import TextConfig
from worldplay_env.models.wan.text import TextEncoder, text_model
from worldplay_env.training.autoencoder import as_video
from worldplay_env.training.depth import CELLS
from worldplay_env.training.run import fast_convolutions
from worldplay_env.training.scene_clips import SceneClips
from worldplay_env.training.trajectories import Plan
from worldplay_env.weights.checkpoint import load_tokenizer
from worldplay_env.worlds.scene.build import HELD_OUT_SEED

HELD_OUT_PATHS = HELD_OUT_SEED + 60_000
"""First seed of the held-out scenes that these stages report on."""
_ENCODED_AT_ONCE = 16
"""Videos."""
_RENDERED_AT_ONCE = 528
"""Frames."""


class Chunks(NamedTuple):
    """A batch of chunks, each with the K latent frames of its memory.

    Attributes:
        memory: float32 [b, C, K, h, w] clean latents, K = 0, 4, 8, 12 or 16.
        clean: float32 [b, C, 4, h, w] latents of the chunk itself.
        viewmats: float32 [b, K + 4, 4, 4] view matrices, re-based on the chunk's first pose.
        labels: int64 [b, K + 4] action labels.
        depth: float16 [b, K + 4, 2 h, 2 w] along the optical axis; inf for sky.
        starts: bool [b, K], which memory frames are latent frame 0, the picture that a rollout begins with.
    """

    memory: Tensor
    clean: Tensor
    viewmats: Tensor
    labels: Tensor
    depth: Tensor
    starts: Tensor


@dataclass(frozen=True)
class LatentPaths:
    """N paths of `chunks` chunks, T = 4 chunks latent frames, on one device.

    Attributes:
        latents: float16 [N, T, C, h, w], normalised.
        c2w: float64 [N, T, 4, 4] poses.
        w2c: float64 [N, T, 4, 4] their inverses.
        labels: int64 [N, T] action labels.
        memory: int64 [N, chunks, 16] the latent frames that a chunk sees: its first min(4 chunk, 16) entries.
        tokens: int64 [N, text_len] the captions' token ids, zeros behind them.
        mask: int64 [N, text_len], 1 for a token.
        depth: float16 [N, T, 2 h, 2 w] along the optical axis, `CELLS` values a side of a latent pixel; inf for sky.
        frames: uint8 [N, 4 T - 3, H, W, 3] the true video, if it was kept.
    """

    latents: Tensor
    c2w: Tensor
    w2c: Tensor
    labels: Tensor
    memory: Tensor
    tokens: Tensor
    mask: Tensor
    depth: Tensor
    frames: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def chunks(self) -> int:
        """Chunks in a path."""
        return self.memory.shape[1]

    def take(self, rows: Tensor, chunk: Tensor, length: int, *, history: Tensor | None = None) -> Chunks:
        """Return one chunk of each of the given paths.

        Args:
            rows: int64 [b], paths.
            chunk: int64 [b], which chunk of each.
            length: Latent frames that all of them remember: `memory_length` of each chunk, or fewer, which leaves out
                the newest.
            history: [b, T, C, h, w] latents to remember in place of the true ones.
        """
        coming = chunk[:, None] * LAYOUT.latents + torch.arange(LAYOUT.latents, device=chunk.device)  # [b, 4]
        past = self.memory[rows, chunk][:, :length]  # [b, K]
        frames = torch.cat([past, coming], dim=1)
        path = rows[:, None]
        if history is None:
            remembered = self.latents[path, past]
        else:
            remembered = history[torch.arange(len(rows), device=rows.device)[:, None], past]
        reference = self.c2w[rows, coming[:, 0]]
        return Chunks(
            memory=remembered.float().transpose(1, 2),
            clean=self.latents[path, coming].float().transpose(1, 2),
            viewmats=(self.w2c[path, frames] @ reference[:, None]).float(),
            labels=self.labels[path, frames],
            depth=self.depth[path, frames],
            starts=past == 0,
        )

    def shown(self, rows: Tensor, chunk: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return which latent pixels of chunks show surfaces that pictures before them show, half of each at least.

        Args:
            rows: int64 [b], paths.
            chunk: int64 [b], which chunk of each.
            length: Latent frames that all of them remember.

        Returns:
            Whether the path's first picture shows them, bool [b, 4, h, w], and whether that or the memory does.
        """
        coming = chunk[:, None] * LAYOUT.latents + torch.arange(LAYOUT.latents, device=chunk.device)  # [b, 4]
        past = F.pad(self.memory[rows, chunk][:, :length], (1, 0))  # [b, 1 + K]: the first picture, then the memory
        path = rows[:, None]
        relative = self.w2c[path, past][:, None] @ self.c2w[path, coming][:, :, None]  # [b, 4, 1 + K, 4, 4]
        pairs = relative.shape[:3]
        depth, past_depth = self.depth[path, coming].float()[:, :, None], self.depth[path, past].float()[:, None]
        size = depth.shape[-2:]
        points = visible(
            depth.expand(*pairs, *size).reshape(-1, *size),
            relative.flatten(0, 2).float(),
            past_depth.expand(*pairs, *size).reshape(-1, *size),
            DEFAULT_INTRINSICS,
        ).unflatten(0, pairs)
        first, any_of_them = points[:, :, 0], points.any(dim=2)  # [b, 4, 2 h, 2 w]
        return F.avg_pool2d(first.float(), CELLS) >= 0.5, F.avg_pool2d(any_of_them.float(), CELLS) >= 0.5


def render_paths(
    plans: Iterable[Plan],
    autoencoder: Codec,
    text: TextConfig,
    size: tuple[int, int],
    *,
    seconds: float | None = None,
    compile: bool = False,
    keep_frames: bool = False,
) -> LatentPaths:
    """Render and encode planned paths.

    Args:
        plans: What `paths.plans` returned.
        autoencoder: Trained, on the device and in the dtype that it is to encode in.
        text: How captions are tokenised.
        size: Height and width of a frame.
        seconds: Stop early after so long, with the paths that are ready.
        compile: Whether to fuse the renderer.
        keep_frames: Whether to keep the true video.
    """
    began = time.monotonic()
    device = next(autoencoder.parameters()).device
    parts, depths, frames, ready = [], [], [], []
    for planned in plans:
        clips = SceneClips(planned.scenes, size, device, compile=compile, frames_at_once=_RENDERED_AT_ONCE)
        each = np.arange(len(planned.scenes))
        video = clips.render(each, planned.poses)
        parts.append(encode(autoencoder, video))
        rows, columns = parts[-1].shape[-2:]
        depths.append(clips.depth(each, planned.poses, (CELLS * rows, CELLS * columns)).half())
        ready.append(planned)
        if keep_frames:
            frames.append(video)
        if seconds is not None and time.monotonic() - began > seconds:
            break
    poses = np.concatenate([planned.poses for planned in ready])
    captions = [scene.caption for planned in ready for scene in planned.scenes]
    tokens, mask = tokenize(captions, text)
    paths = LatentPaths(
        latents=torch.cat(parts),
        c2w=torch.from_numpy(poses).to(device),
        w2c=torch.from_numpy(view_matrices(poses)).to(device),
        labels=torch.from_numpy(np.concatenate([planned.labels for planned in ready])).to(device),
        memory=torch.from_numpy(np.concatenate([planned.memory for planned in ready])).to(device),
        tokens=tokens.to(device),
        mask=mask.to(device),
        depth=torch.cat(depths),
        frames=torch.cat(frames) if keep_frames else None,
    )
    print(f"{len(paths)} paths of {paths.chunks} chunks in {time.monotonic() - began:.1f} s", flush=True)
    return paths


@torch.no_grad()
def encode(autoencoder: Codec, video: Tensor) -> Tensor:
    """Encode videos uint8 [n, 4 T - 3, H, W, 3] to normalised latents float16 [n, T, C, h, w]."""
    parts = []
    for part in video.split(_ENCODED_AT_ONCE):
        with fast_convolutions():
            mean, _ = autoencoder.encode(as_video(part))
        parts.append(autoencoder.normalise(mean).transpose(1, 2).half())
    return torch.cat(parts)


def tokenize(captions: Sequence[str], config: TextConfig) -> tuple[Tensor, Tensor]:
    """Return token ids and mask of captions, as the world's text encoder makes them: int64 [n, text_len] each."""
    encoder = TextEncoder(partial(text_model, config), partial(load_tokenizer, None), config.text_len)
    tokens, mask = encoder.tokenize(captions)
    room = (0, config.text_len - tokens.shape[1])
    return F.pad(tokens, room), F.pad(mask, room)
