"""A world's films along given paths, and what its autoencoder makes of true ones."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldplay_env.evaluate.camera_paths import Path, out_and_back
from worldplay_env.evaluate.ground_truth import Truth
from worldplay_env.models.codec import Codec, pixels_to_frames, uint8_to_pixels
from worldplay_env.worlds.base import LAYOUT, World
from worldplay_env.worlds.transfer import fetch

CORES = 2
"""Threads that a chunk on a CPU is timed with."""

Stepped = Callable[[int], None]
"""Is told how many chunks were made, or rebuilt by an autoencoder, each time some were."""

_CLIP_LATENTS = 15  # after the first, in one pass of the autoencoder


@dataclass(frozen=True)
class RolloutSpec:
    """One rollout to be made: in which scene, along which path."""

    truth: Truth
    path: Path


def ignore(_: int) -> None:
    """Take no notice of chunks that were made."""


def make_rollouts(
    world: World, takes: Sequence[RolloutSpec], batch: int, last_chunks: int | None = None, stepped: Stepped = ignore
) -> list[Tensor]:
    """Roll a world out along paths of equal length, `batch` rollouts at a time; a rollout's seed is its scene's.

    Args:
        world: Makes the films.
        takes: What to film.
        batch: Rollouts in one `World.step`.
        last_chunks: How many of the last chunks to keep; by default all.
        stepped: Is called after every `World.step`.

    Returns:
        One film for each take: uint8 [frames, H, W, 3] on the CPU.
    """
    films = []
    for first in range(0, len(takes), batch):
        group = takes[first : first + batch]
        rollouts = [take.truth.begin(world) for take in group]
        controls = [take.path.controls() for take in group]
        parts: list[list[Tensor]] = [[] for _ in group]
        kept_from = len(controls[0]) - (last_chunks or len(controls[0]))
        for number, cameras in enumerate(zip(*controls, strict=True)):
            for part, chunk in zip(parts, world.step(rollouts, cameras), strict=True):
                if number >= kept_from:
                    assert chunk.frames is not None
                    part.append(torch.from_numpy(fetch(chunk.frames)))
            stepped(len(group))
        films += [torch.cat(part) for part in parts]
    return films


@torch.no_grad()
def reconstruct(codec: Codec, film: Tensor, stepped: Stepped = ignore) -> Tensor:
    """Return a film, uint8 [1 + 4 n, H, W, 3], encoded and decoded; each 61 frames of a long one by themselves.

    Then `stepped` is told how many chunks it has.
    """
    step = _CLIP_LATENTS * LAYOUT.images
    parts = [film[:1]]
    for first in range(0, max(1, len(film) - 1), step):
        clip = uint8_to_pixels(film[first : first + step + 1]).permute(3, 0, 1, 2)[None]  # [1, 3, F, H, W]
        mean, _ = codec.encode(clip)
        pixels, _ = codec.decode(codec.normalise(mean.float()))
        frames = pixels_to_frames(pixels[0])
        if first == 0:
            parts[0] = frames[:1]
        parts.append(frames[1:])
    stepped(math.ceil((len(film) - 1) / LAYOUT.chunk_images))
    return torch.cat(parts)


def chunk_seconds(world: World, truth: Truth) -> float:
    """Return the median seconds of making and fetching one chunk of one rollout whose memory is full.

    On a CPU, with `CORES` threads, if there are as many, whatever else is computed with.
    """
    controls = out_and_back(truth.scene, world.layout, world.motion).controls()
    rollout = truth.begin(world)
    full = world.layout.full_memory + 1
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(min(os.cpu_count() or 1, CORES))
    try:
        for number, control in enumerate(controls[: full + 6]):
            began = time.perf_counter()
            [chunk] = world.step([rollout], [control])
            assert chunk.frames is not None
            fetch(chunk.frames)
            if number >= full:
                seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(seconds)
