"""One block of latent frames for a batch of rollouts: the window that its calls see, and its denoising."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldplay_env.models.abot.attention import CallCache
from worldplay_env.models.abot.config import WindowConfig
from worldplay_env.models.abot.sampler import Schedule
from worldplay_env.models.abot.transformer import AbotTransformer
from worldplay_env.models.abot.window import Page, Window, gather, pages_of
from worldplay_env.models.wan.attention import KeysValues, KeyValueCache


@dataclass(frozen=True, eq=False)
class References:
    """Reference slots of a batch.

    Attributes:
        latents: float32 [batch, slots, channels, rows, columns], normalised.
        given: bool [batch]. Those of a world that has none are tokens of zeros, and are seen like others.
    """

    latents: Tensor
    given: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slots, rows and columns."""
        _, slots, _, rows, columns = self.latents.shape
        return slots, rows, columns


class OpenBlock:
    """A block that is being made: what its calls see is gathered once, their own rows are written over each other.

    Rollouts of different ages go together, those without a block apart from the others: their calls have the
    references among their tokens. Windows of different lengths are filled up, and what fills them is not seen.

    Args:
        transformer: The velocity field.
        config: Sizes of the window.
        windows: Those of the rollouts, all without a block or all with one.
        size: Latent frames of the block, rows and columns of a latent frame.
        added: [batch, 1 or frames, tokens, dim], what the action adapter makes of the held keys.
        text: Every layer's keys and values of the prompts.
        reference_shape: Slots, rows and columns of the references. None: there are none.
        references: Those of rollouts without a block. None: there are none, or they are in the windows.
        cache: Buffers to use if they have room; by default new ones.
    """

    def __init__(
        self,
        transformer: AbotTransformer,
        config: WindowConfig,
        windows: Sequence[Window],
        size: tuple[int, int, int],
        added: Tensor,
        text: Sequence[KeysValues],
        *,
        reference_shape: tuple[int, int, int] | None = None,
        references: References | None = None,
        cache: KeyValueCache | None = None,
    ) -> None:
        first = {window.frames == 0 for window in windows}
        if len(first) != 1:
            raise ValueError("rollouts without a block go through apart from those that have one")
        self._transformer, self._config, self._windows = transformer, config, list(windows)
        self._added, self._text = added, text
        frames, *latent_size = size
        self._tokens = math.prod(transformer.grid((latent_size[0], latent_size[1])))
        self._slots = reference_shape if first == {True} else None
        self._references = (
            transformer.embed_references(references.latents, references.given) if references is not None else None
        )
        bases = [window.base_for(frames, config) for window in windows]
        visible = [window.visible(frames, config) for window in windows]
        behind = 0 if reference_shape is None else reference_tokens(transformer, reference_shape)
        longest = max(map(len, visible))
        rows = behind + (longest + frames) * self._tokens
        self._frames = frames
        cache = cache if cache is not None else transformer.new_cache(len(windows), rows)
        self._rows = cache.layers(len(windows), rows)
        for world, (window, pages, base) in enumerate(zip(windows, visible, bases, strict=True)):
            if window.references is not None and reference_shape is not None:
                angles = transformer.reference_rotation(reference_shape[0], reference_shape[1:])
                gather(self._rows, world, 0, [window.references], *(part.flatten(0, 1) for part in angles))
            filled = behind + (longest - len(pages)) * self._tokens
            for layer in self._rows if filled > behind else ():
                layer.keys[world, :, behind:filled] = 0
                layer.values[world, :, behind:filled] = 0
            if pages:
                oldest = window.frames - len(pages) - base
                angles = transformer.rotation(range(oldest, oldest + len(pages)), (latent_size[0], latent_size[1]))
                gather(self._rows, world, filled, pages, *(part.flatten(0, 1) for part in angles))
        seen = None
        if any(len(pages) != longest for pages in visible):
            seen = torch.ones(len(windows), rows, dtype=torch.bool)
            for row, pages in zip(seen, visible, strict=True):
                row[behind : behind + (longest - len(pages)) * self._tokens] = False
            seen = seen.to(transformer.device)
        times = [
            range(window.frames - base, window.frames - base + frames)
            for window, base in zip(windows, bases, strict=True)
        ]
        self._positions = transformer.positions(times, (latent_size[0], latent_size[1]), self._slots, seen)

    def velocity(self, latents: Tensor, timesteps: Tensor, hidden: list[Tensor] | None = None) -> Tensor:
        """Return the velocity of latents [batch, C, frames, h, w] at timesteps float32 [batch, frames]."""
        return self._call(latents, timesteps, None, hidden)

    def close(self, latents: Tensor) -> tuple[list[Window], Tensor]:
        """Make the call over finished latents whose keys and values later blocks see.

        Returns:
            The rollouts' windows behind the block, and the call's velocity, which nothing needs.
        """
        kept: list[list[KeysValues]] = [[] for _ in self._rows]
        velocity = self._call(latents, latents.new_zeros(len(latents), self._frames, dtype=torch.float32), kept, None)
        made = [layer[0] for layer in kept]
        behind = [] if self._slots is None else [reference_tokens(self._transformer, self._slots)]
        cut = behind + [self._tokens] * self._frames
        windows = []
        for world, window in enumerate(self._windows):
            pages: list[Page] = pages_of(made, world, cut)
            references = pages.pop(0) if behind else None
            windows.append(window.advanced(pages, references, self._config))
        return windows, velocity

    def _call(
        self,
        latents: Tensor,
        timesteps: Tensor,
        kept: Sequence[list[KeysValues]] | None,
        hidden: list[Tensor] | None,
    ) -> Tensor:
        cache = [
            CallCache(rows, self._positions, None if kept is None else kept[layer])
            for layer, rows in enumerate(self._rows)
        ]
        return self._transformer(
            latents,
            timesteps,
            self._added,
            self._positions,
            self._text,
            cache,
            references=self._references,
            hidden=hidden,
        )


def reference_tokens(transformer: AbotTransformer, shape: tuple[int, int, int]) -> int:
    """Return the tokens of references of so many slots, rows and columns."""
    return shape[0] * math.prod(transformer.grid(shape[1:]))


def denoise(
    velocity: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    noise: Tensor,
    renoise: Sequence[Tensor],
    clean: Tensor,
    known: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Make the latents of a block from noise, in the steps of the schedule.

    Args:
        velocity: Returns the velocity of latents [batch, C, frames, h, w] at timesteps, float32 [batch, frames].
        schedule: The steps.
        noise: float32 [batch, C, frames, h, w].
        renoise: Fresh noise after each step but the last, in the same shape.
        clean: float32 [batch, C, 1 or frames, h, w], the known latent frames.
        known: bool [batch, frames], which are known: they are fed clean, at timestep 0, and stay as they are.
        dtype: What the latents are denoised in.

    Returns:
        The block in that dtype.
    """
    mask, clean = known[:, None, :, None, None], clean.to(dtype)
    x = torch.where(mask, clean, noise.to(dtype))
    for step, timestep in enumerate(schedule.timesteps):
        flow = velocity(x, torch.where(known, 0.0, timestep))
        made = schedule.clean(x, flow, step)
        if step + 1 < len(schedule.timesteps):
            made = schedule.renoised(made, renoise[step], step + 1)
        x = torch.where(mask, clean, made)
    return x
