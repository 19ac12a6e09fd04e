"""From rollouts and held keys to their next latents: one block, and the pages that later blocks see."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from worldplay_env.models.abot.block import OpenBlock, References, denoise
from worldplay_env.models.abot.config import AbotWorldConfig
from worldplay_env.models.abot.sampler import Schedule
from worldplay_env.models.abot.transformer import AbotTransformer
from worldplay_env.models.wan.attention import KeyValueCache
from worldplay_env.worlds.abot.rollout import AbotRollout, PastBlock
from worldplay_env.worlds.base import Control
from worldplay_env.worlds.diffusion.latent_generator import GeneratedChunk
from worldplay_env.worlds.diffusion.prompts import PromptCache
from worldplay_env.worlds.diffusion.timing import Stopwatch

KNOWN_KEYS = 96
"""Key combinations whose additions to the tokens are kept: all 81 actions. Of the 5B model, 0.5 GB."""

Renoise = Callable[[AbotRollout, int], Tensor]
"""Returns the noise that is added to a rollout's next chunk after a step: float32 [C, L, h, w] on any device."""


class BlockGenerator:
    """Generates latents of ABot-World: rollouts without a block go through together, and so do the others of any age.

    Args:
        config: Sizes.
        transformer: The velocity field, in its compute dtype.
        renoise: Draws the noise between the steps.
    """

    def __init__(self, config: AbotWorldConfig, transformer: AbotTransformer, renoise: Renoise) -> None:
        self.config = config
        self.transformer = transformer
        self.device = transformer.device
        self._renoise = renoise
        self._schedule = Schedule.of(config.schedule)
        self._cache: KeyValueCache | None = None
        self._prompts = PromptCache(transformer)
        self._added: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    @property
    def buffered(self) -> int:
        """Worlds that there are key/value buffers for."""
        return self._cache.batch if self._cache is not None else 0

    def forget(self) -> None:
        """Give back buffers, and what was made of prompts and keys; the next call makes them anew."""
        self._cache = None
        self._prompts.clear()
        self._added.clear()

    def generate(
        self, rollouts: list[AbotRollout], controls: list[Control], noise: Tensor | None, watch: Stopwatch
    ) -> GeneratedChunk:
        """Denoise the next block of rollouts, and make the call over it whose keys and values are kept.

        Args:
            rollouts: All without a block, or all with one. They are read, not changed.
            controls: The held keys of each one's next chunk.
            noise: float32 [len(rollouts), C, L, h, w] in place of the rollouts' own.
            watch: Gets the laps "gather", "denoise_0" to "denoise_3" and "keep".
        """
        config, first = self.config, rollouts[0].chunks == 0
        windows = [rollout.window for rollout in rollouts]
        noise = torch.stack([rollout.noise() for rollout in rollouts]) if noise is None else noise
        noise = noise.to(self.device)
        slots, side = config.window.reference_slots, config.reference_latents
        block = OpenBlock(
            self.transformer,
            config.window,
            windows,
            (config.window.block, *config.latent_size),
            self._additions(controls, first=first),
            self._prompts.of([rollout.encoded_prompt for rollout in rollouts]),
            reference_shape=(slots, side, side) if slots else None,
            references=self._references(rollouts) if slots and first else None,
            cache=self._cache_for(len(rollouts)),
        )
        watch.lap("gather")
        calls = 0

        def velocity(latents: Tensor, timesteps: Tensor) -> Tensor:
            nonlocal calls
            made = block.velocity(latents, timesteps)
            watch.lap(f"denoise_{calls}")
            calls += 1
            return made

        latents = denoise(
            velocity,
            self._schedule,
            noise,
            [
                torch.stack([self._renoise(rollout, step) for rollout in rollouts]).to(self.device)
                for step in range(len(self._schedule.sigmas) - 1)
            ],
            torch.stack([rollout.start_latent for rollout in rollouts]),
            self._known(rollouts),
            self.transformer.dtype,
        )
        after, _ = block.close(latents)
        watch.lap("keep")
        latents = latents.float()
        past = [
            PastBlock(row.clone(), control.poses[-1], window)
            for row, control, window in zip(latents, controls, after, strict=True)
        ]
        seen = [len(window.visible(config.window.block, config.window)) for window in windows]
        memory = [
            np.arange(window.frames - count, window.frames) for window, count in zip(windows, seen, strict=True)
        ]
        return GeneratedChunk(latents, past, memory)

    def _known(self, rollouts: Sequence[AbotRollout]) -> Tensor:
        """Return which latent frames are given, bool [b, L]: the first of a rollout that begins with a picture."""
        later = [False] * (self.config.window.block - 1)
        return torch.tensor(
            [[rollout.has_image and not rollout.chunks, *later] for rollout in rollouts], device=self.device
        )

    def _references(self, rollouts: Sequence[AbotRollout]) -> References:
        """Return the reference slots: those of a rollout without any are tokens of zeros, as the weights saw them."""
        config = self.config
        side = config.reference_latents
        none = torch.zeros(
            config.window.reference_slots, config.transformer.in_channels, side, side, device=self.device
        )
        given = [rollout.references for rollout in rollouts]
        return References(
            torch.stack([none if one is None else one for one in given]),
            torch.tensor([one is not None for one in given], device=self.device),
        )

    def _additions(self, controls: Sequence[Control], *, first: bool) -> Tensor:
        """Return what is added to the tokens for held keys, [b, 1 or L, n, dim]; 1 where all are held throughout.

        The start, whose action no control says, gets the keys of the latent frame behind it: an action is a block's.
        """
        keys = [np.concatenate([one.keys[1:2], one.keys[1:]]) if first else one.keys for one in controls]
        if all((rows == rows[0]).all() for rows in keys):
            keys = [rows[:1] for rows in keys]
        return torch.stack([torch.stack([self._addition(tuple(row.tolist())) for row in rows]) for rows in keys])

    def _addition(self, keys: tuple[int, ...]) -> Tensor:
        """Return what is added to the tokens of a latent frame, [n, dim], computed once a key combination."""
        if keys not in self._added:
            held = torch.tensor([keys], dtype=torch.float32, device=self.device)
            [self._added[keys]] = self.transformer.act_control_adapter.of_keys(
                held, self.transformer.grid(self.config.latent_size)
            )
        self._added.move_to_end(keys)
        while len(self._added) > KNOWN_KEYS:
            self._added.popitem(last=False)
        return self._added[keys]

    def _cache_for(self, batch: int) -> KeyValueCache:
        """Return a cache with room for `batch` worlds; its buffers are the world's and grow to the largest batch."""
        if self._cache is None or self._cache.batch < batch:
            self._cache = None  # frees the smaller one first
            rows = self.config.reference_tokens + self.config.window.frames * self.config.tokens_per_frame
            self._cache = self.transformer.new_cache(batch, rows)
        return self._cache
