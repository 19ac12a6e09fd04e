"""From rollouts and cameras to their next latents: memory, prefill, four denoising steps (spec section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.camera import rebase, view_matrices
from worldplay_env.models.config import WorldConfig
from worldplay_env.models.wan.attention import KeysValues, KeyValueCache, LayerCache
from worldplay_env.models.worldplay import memory, sampler
from worldplay_env.models.worldplay.positional import Positions
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.worlds.base import Control
from worldplay_env.worlds.diffusion.latent_generator import GeneratedChunk
from worldplay_env.worlds.diffusion.prompts import PromptCache
from worldplay_env.worlds.diffusion.rollout import DiffusionRollout, PastChunk
from worldplay_env.worlds.diffusion.timing import Stopwatch


@dataclass(frozen=True, eq=False)
class _Begin:
    """Where denoising begins.

    Attributes:
        noise: float32 [batch, C, 4, h, w].
        known: bool [batch, 4], which latent frames are given instead of generated.
        clean: float32 [batch, C, 1, h, w], the given latent frame.
    """

    noise: Tensor
    known: Tensor
    clean: Tensor


class ChunkGenerator:
    """Generates the latents of chunks; it owns the key/value buffers and the prompts' keys and values.

    One call at a time: the caller holds a lock, and commits what comes back.

    Args:
        config: Sizes.
        transformer: The velocity field, in its compute dtype.
        select: Chooses the past latent frames that each rollout's chunk sees: as many, and in whole clips, as
            `memory.select_each` does.
    """

    def __init__(self, config: WorldConfig, transformer: Transformer, select: memory.Selection) -> None:
        self.config = config
        self.transformer = transformer
        self._latents = config.layout.latents
        self.device = transformer.device
        self._select_memory = select
        self._cache: KeyValueCache | None = None
        self._prompts = PromptCache(transformer)

    @property
    def buffered(self) -> int:
        """Worlds that there are key/value buffers for."""
        return self._cache.batch if self._cache is not None else 0

    def forget(self) -> None:
        """Give back buffers, tables and prompts' keys and values; the next call makes them anew."""
        self._cache = None
        self._prompts.clear()
        self.transformer.rope_tables.clear()

    def generate(
        self, rollouts: list[DiffusionRollout], controls: list[Control], noise: Tensor | None, watch: Stopwatch
    ) -> GeneratedChunk:
        """Choose memory, prefill it and denoise the next chunk of rollouts.

        Where their memories differ in length, the shorter ones begin with blank frames that nothing attends to. The
        frames behind them keep their distances in time, and those alone matter to RoPE.

        Args:
            rollouts: They are read, not changed.
            controls: The cameras of each one's next chunk.
            noise: float32 [len(rollouts), C, 4, h, w] in place of the rollouts' own.
            watch: Gets the laps "select", "prefill" and "denoise_0" to "denoise_3".
        """
        chosen = self._select(rollouts, controls)
        length, batch, size = max(map(len, chosen)), len(rollouts), self.config.latent_size
        recalled = [
            self._recall(rollout, frames, length, control)
            for rollout, frames, control in zip(rollouts, chosen, controls, strict=True)
        ]
        watch.lap("select")
        # What goes to the device goes first: behind the prefill, it would wait for that.
        seen_by_memory, seen = self._seen(chosen, length)
        viewmats, K, labels = self._cameras(recalled, controls)
        noise = torch.stack([rollout.noise() for rollout in rollouts]) if noise is None else noise
        begin = self._begin(rollouts, noise.to(self.device))
        text = self._prompts.of([rollout.encoded_prompt for rollout in rollouts])
        cache = self._cache_for(batch)
        frames, tokens = range(length, length + self._latents), self.config.tokens_per_frame
        positions = self.transformer.positions(frames, size, viewmats[:, length:], K[:, length:], seen)
        if length:
            clean = torch.stack([torch.cat([past.latents for past in clips], dim=1) for clips in recalled])
            timesteps = torch.full((batch, length), sampler.KNOWN_TIMESTEP, device=self.device)
            cameras = viewmats[:, :length], K[:, :length]
            behind = self.transformer.positions(range(length), size, *cameras, seen_by_memory)
            self.transformer.prefill(
                clean, timesteps, labels[:, :length], behind, text, cache.layers(batch, length * tokens)
            )
            watch.lap("prefill")
        latents = self._denoise(
            begin, labels[:, length:], positions, text, cache.layers(batch, frames.stop * tokens), watch
        )
        past = [PastChunk.of(row.clone(), control) for row, control in zip(latents, controls, strict=True)]
        return GeneratedChunk(latents, past, chosen)

    def _begin(self, rollouts: list[DiffusionRollout], noise: Tensor) -> _Begin:
        """Return where denoising begins: noise [b, C, 4, h, w], and what is known of it.

        Latent frame 0 of a rollout that begins with an image is known: it is fed clean and never updated.
        """
        given = [[rollout.has_image and not rollout.chunks] + [False] * (self._latents - 1) for rollout in rollouts]
        known = torch.tensor(given, device=self.device)  # [b, 4]
        clean = torch.stack([rollout.start_latent for rollout in rollouts])  # [b, C, 1, h, w]
        return _Begin(noise, known, clean)

    def _denoise(
        self,
        begin: _Begin,
        labels: Tensor,
        positions: Positions,
        text: list[KeysValues],
        cache: Sequence[LayerCache],
        watch: Stopwatch,
    ) -> Tensor:
        """Follow the flow from noise to clean latents, float32 [b, C, 4, h, w]."""

        def velocity(x: Tensor, timesteps: Tensor) -> Tensor:
            return self.transformer(x, timesteps, labels, positions, text, cache)

        for step in sampler.denoise(velocity, begin.noise, begin.clean, begin.known, self.transformer.dtype):
            watch.lap(f"denoise_{step.index}")
        return step.prediction()

    def _select(self, rollouts: list[DiffusionRollout], controls: list[Control]) -> list[np.ndarray]:
        """Return the sorted indices of the past latent frames that each rollout's next chunk sees."""
        viewmats = [
            np.concatenate([*(past.viewmats for past in rollout.history), view_matrices(control.poses)])
            for rollout, control in zip(rollouts, controls, strict=True)
        ]
        return self._select_memory(viewmats, device=self.device)

    def _recall(
        self, rollout: DiffusionRollout, frames: np.ndarray, length: int, control: Control
    ) -> list[PastChunk]:
        """Return the chunks that the chosen frames make up, and before them blank ones up to `length` frames.

        Memory is chosen in whole clips, which are chunks.
        """
        clips = [rollout.history[index // self._latents] for index in frames[:: self._latents]]
        missing = length // self._latents - len(clips)
        if not missing:
            return clips
        channels = self.config.transformer.in_channels
        nothing = torch.zeros(channels, self._latents, *self.config.latent_size, device=self.device)
        return [PastChunk.of(nothing, control)] * missing + clips

    def _seen(self, chosen: list[np.ndarray], length: int) -> tuple[Tensor | None, Tensor | None]:
        """Return which frames the memories and the chunks attend to, bool [b, length] and [b, length + 4]; None: all.

        A row that is blank all through attends to itself: it must attend to something, and nothing attends to it.
        """
        if all(len(frames) == length for frames in chosen):
            return None, None
        there = [[False] * (length - len(frames)) + [True] * len(frames) for frames in chosen]
        memory_sees = [row if any(row) else [True] * length for row in there]
        chunk_sees = [row + [True] * self._latents for row in there]
        return torch.tensor(memory_sees, device=self.device), torch.tensor(chunk_sees, device=self.device)

    def _cameras(self, recalled: list[list[PastChunk]], controls: list[Control]) -> tuple[Tensor, Tensor, Tensor]:
        """Return view matrices, intrinsics and labels of memory and chunk, [b, frames, ...].

        Poses are re-based on the chunk's first in float64: exact, since attention sees relative cameras only, and
        what keeps low precision accurate far from the origin.
        """
        viewmats, intrinsics, labels = [], [], []
        for clips, control in zip(recalled, controls, strict=True):
            all_controls = [*(past.control for past in clips), control]
            poses = np.concatenate([one.poses for one in all_controls])
            viewmats.append(view_matrices(rebase(poses, control.poses[0])))
            intrinsics.append(np.concatenate([one.intrinsics for one in all_controls]))
            labels.append(np.concatenate([one.labels for one in all_controls]))
        return (
            torch.from_numpy(np.stack(viewmats)).float().to(self.device),
            torch.from_numpy(np.stack(intrinsics)).float().to(self.device),
            torch.from_numpy(np.stack(labels)).to(self.device),
        )

    def _cache_for(self, batch: int) -> KeyValueCache:
        """Return a cache with room for `batch` worlds; its buffers are the world's and grow to the largest batch."""
        if self._cache is None or self._cache.batch < batch:
            self._cache = None  # frees the smaller one first
            rows = (self.config.layout.memory + self._latents) * self.config.tokens_per_frame
            self._cache = self.transformer.new_cache(batch, rows)
        return self._cache
