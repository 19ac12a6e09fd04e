"""Paths through scenes as latents on the device: planned on all cores, rendered and encoded in large batches.

A path has everything that a chunk is trained from: latents of its true video, cameras, action labels, the memory
frames that `memory.select` chooses at each chunk, and the scene's caption as tokens.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldplay_env import memory
from worldplay_env.control.actions import NUM_ACTIONS, NUM_CLASSES, SIGNS
from worldplay_env.control.camera import view_matrices
from worldplay_env.model.autoencoder import Autoencoder
from worldplay_env.model.config import TextConfig
from worldplay_env.model.text import TextEncoder, text_model
from worldplay_env.scenes.build import HELD_OUT_SEED
from worldplay_env.training.autoencoder import as_video
from worldplay_env.training.data import SceneClips, held_labels
from worldplay_env.weights.checkpoint import load_tokenizer
from worldplay_env.world import CHUNK_LATENTS

HELD_OUT_PATHS = HELD_OUT_SEED + 60_000
"""First seed of the held-out scenes that these stages report on."""

_SINGLE_MOVES = (1, 2, 3, 4, NUM_CLASSES, 2 * NUM_CLASSES, 3 * NUM_CLASSES, 4 * NUM_CLASSES)
"""Labels with one key down: the four turns, then the four translations."""
_OPPOSITE = np.array([SIGNS.index((-first, -second)) for first, second in SIGNS])
"""The class 0..8 that undoes a class."""
_TRIES = 4
"""Paths that are tried in a scene; the one that walls stop least is kept."""
_SHARD = 64
"""Paths that are planned, rendered and encoded together."""
_ENCODED_AT_ONCE = 16


def memory_length(chunk: int) -> int:
    """Return how many latent frames a chunk sees: 0, 4, 8, 12 or 16."""
    return min(chunk * CHUNK_LATENTS, memory.MEMORY)


class Chunks(NamedTuple):
    """A batch of chunks, each with the K latent frames of its memory.

    Attributes:
        memory: float32 [b, C, K, h, w] clean latents, K = 0, 4, 8, 12 or 16.
        clean: float32 [b, C, 4, h, w] latents of the chunk itself.
        viewmats: float32 [b, K + 4, 4, 4] view matrices, re-based on the chunk's first pose.
        labels: int64 [b, K + 4] action labels.
    """

    memory: Tensor
    clean: Tensor
    viewmats: Tensor
    labels: Tensor


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
        frames: uint8 [N, 4 T - 3, H, W, 3] the true video, if it was kept.
    """

    latents: Tensor
    c2w: Tensor
    w2c: Tensor
    labels: Tensor
    memory: Tensor
    tokens: Tensor
    mask: Tensor
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
            length: Latent frames that all of them remember, `memory_length` of each chunk.
            history: [b, T, C, h, w] latents to remember in place of the true ones.
        """
        coming = chunk[:, None] * CHUNK_LATENTS + torch.arange(CHUNK_LATENTS, device=chunk.device)  # [b, 4]
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
        )


@dataclass(frozen=True)
class Plan:
    """Paths before they are rendered: arrays as in `LatentPaths`, poses in their scenes' coordinates."""

    seeds: list[int]
    poses: np.ndarray
    labels: np.ndarray
    memory: np.ndarray
    captions: list[str]


def plan(seeds: Sequence[int], chunks: int, size: tuple[int, int], seed: int = 0) -> Plan:
    """Walk one path through each scene and choose each chunk's memory; a pure function of its arguments."""
    rng = np.random.default_rng((seed, seeds[0]))
    clips = SceneClips(seeds, size, torch.device("cpu"))
    which = np.repeat(np.arange(len(seeds)), _TRIES)
    own = np.stack([clips.scenes[index].start for index in which])
    elsewhere = clips.starts(rng, which, level=0.85)
    starts = np.where(rng.random(len(which))[:, None, None] < 0.5, own, elsewhere)
    moves = path_labels(rng, len(seeds), CHUNK_LATENTS * chunks - 1, _TRIES)  # [scenes x tries, T - 1]
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
            indices = memory.select(views[: CHUNK_LATENTS * (chunk + 1)])
            row[chunk, : len(indices)] = indices
    return Plan(list(seeds), poses, labels, remembered, [scene.caption for scene in clips.scenes])


def path_labels(rng: np.random.Generator, count: int, steps: int, tries: int = 1) -> np.ndarray:
    """Draw action labels int64 [count x tries, steps]: wandering, out and back, turning in place, circling.

    The tries of one path are of one kind, so that choosing among them by collisions favours no kind.
    """
    kinds = (_wander, _wander, _wander, _return, _return, _return, _turn, _circle, _change)
    drawn = rng.integers(len(kinds), size=count).repeat(tries)
    return np.stack([kinds[kind](rng, steps) for kind in drawn])


def undo(labels: np.ndarray) -> np.ndarray:
    """Return the labels that lead back along labels [n]: the opposite ones, last first."""
    translation, rotation = np.divmod(labels[::-1], NUM_CLASSES)
    return _OPPOSITE[translation] * NUM_CLASSES + _OPPOSITE[rotation]


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
        labels += [_held(rng)] * (CHUNK_LATENTS * int(rng.integers(1, 4)))
    return np.array(labels[1 : steps + 1])  # chunk 0 has three motions


def _return(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Go out, come back the same way, and go on from there."""
    out = _wander(rng, int(rng.integers(CHUNK_LATENTS, max(steps // 2, CHUNK_LATENTS) + 1)))
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


def render_paths(
    seeds: Sequence[int],
    chunks: int,
    autoencoder: Autoencoder,
    text: TextConfig,
    size: tuple[int, int],
    *,
    seconds: float | None = None,
    workers: int = 0,
    compile: bool = False,
    keep_frames: bool = False,
    seed: int = 0,
) -> LatentPaths:
    """Plan, render and encode one path in each scene.

    Args:
        seeds: The scenes.
        chunks: Length of a path.
        autoencoder: Trained, on the device and in the dtype that it is to encode in.
        text: How captions are tokenised.
        size: Height and width of a frame.
        seconds: Stop early after so long, with the paths that are ready.
        workers: Processes that plan; 0 plans here.
        compile: Whether to fuse the renderer.
        keep_frames: Whether to keep the true video.
        seed: Of the paths.
    """
    began = time.monotonic()
    device = next(autoencoder.parameters()).device
    parts, frames, plans = [], [], []
    shards = [seeds[first : first + _SHARD] for first in range(0, len(seeds), _SHARD)]
    for planned in _planned(shards, chunks, size, workers, seed):
        clips = SceneClips(planned.seeds, size, device, compile=compile, frames_at_once=528)
        video = clips.render(np.arange(len(planned.seeds)), planned.poses)
        parts.append(encode(autoencoder, video))
        plans.append(planned)
        if keep_frames:
            frames.append(video)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if seconds is not None and time.monotonic() - began > seconds:
            break
    poses = np.concatenate([planned.poses for planned in plans])
    captions = [caption for planned in plans for caption in planned.captions]
    tokens, mask = tokenize(captions, text)
    paths = LatentPaths(
        latents=torch.cat(parts),
        c2w=torch.from_numpy(poses).to(device),
        w2c=torch.from_numpy(view_matrices(poses)).to(device),
        labels=torch.from_numpy(np.concatenate([planned.labels for planned in plans])).to(device),
        memory=torch.from_numpy(np.concatenate([planned.memory for planned in plans])).to(device),
        tokens=tokens.to(device),
        mask=mask.to(device),
        frames=torch.cat(frames) if keep_frames else None,
    )
    print(f"{len(paths)} paths of {chunks} chunks in {time.monotonic() - began:.1f} s", flush=True)
    return paths


def _planned(
    shards: Sequence[Sequence[int]], chunks: int, size: tuple[int, int], workers: int, seed: int
) -> Iterator[Plan]:
    """Yield each shard's plan, in order, made by that many processes."""
    make = partial(plan, chunks=chunks, size=size, seed=seed)
    if not workers:
        yield from map(make, shards)
        return
    # Spawned, not forked: this process may hold a CUDA context, and threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(make, shards)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@torch.no_grad()
def encode(autoencoder: Autoencoder, video: Tensor) -> Tensor:
    """Encode videos uint8 [n, 4 T - 3, H, W, 3] to normalised latents float16 [n, T, C, h, w]."""
    parts = []
    for part in video.split(_ENCODED_AT_ONCE):
        # Convolutions of one shape, many times: let cuDNN measure which of its kernels is fastest.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            mean, _ = autoencoder.encode(as_video(part))
        parts.append(autoencoder.normalise(mean).transpose(1, 2).half())
    return torch.cat(parts)


def tokenize(captions: Sequence[str], config: TextConfig) -> tuple[Tensor, Tensor]:
    """Return token ids and mask of captions, as the world's text encoder makes them: int64 [n, text_len] each."""
    encoder = TextEncoder(partial(text_model, config), partial(load_tokenizer, None), config.text_len)
    tokens, mask = encoder.tokenize(captions)
    room = (0, config.text_len - tokens.shape[1])
    return F.pad(tokens, room), F.pad(mask, room)
