"""The rolling cache: which latent frames a block sees, where they are in time, and their keys and values.

A rollout's cache is a list of pages: one for the references, one for each latent frame of its window. A page is never
written to after it was made. So rollouts share pages: a fork is a copy of the list, and costs no memory until it is
stepped. What a call attends to is gathered from the pages once a block, with the keys rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldplay_env.models.abot.attention import rotated
from worldplay_env.models.abot.config import AbotTransformerConfig, WindowConfig
from worldplay_env.models.wan.attention import Rows

POSITIONS_TRAINED = 1024
"""Time positions that the model has tables for."""


@dataclass(frozen=True, eq=False)
class Page:
    """Keys and values of a latent frame, or of the references, in all layers; not to be written to.

    Attributes:
        keys: [layers, heads, tokens, head_dim], normalised but not rotated.
        values: [layers, heads, tokens, head_dim].
    """

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True)
class Window:
    """The cache of a rollout.

    Attributes:
        frames: Latent frames made so far.
        base: The latent frame at time position 0.
        references: The references' page. None: there are none, or no block has been made.
        pages: Those of the newest latent frames, oldest first.
    """

    frames: int = 0
    base: int = 0
    references: Page | None = None
    pages: tuple[Page, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the pages, whether or not other rollouts have them too."""
        return sum(page.nbytes for page in self.every_page)

    @property
    def every_page(self) -> tuple[Page, ...]:
        """The references' page, if there is one, and those of the frames."""
        return ((self.references,) if self.references is not None else ()) + self.pages

    def visible(self, frames: int, config: WindowConfig) -> tuple[Page, ...]:
        """Return the pages of earlier latent frames that a block of `frames` sees."""
        room = config.frames - frames
        return self.pages[-room:] if room > 0 else ()

    def base_for(self, frames: int, config: WindowConfig) -> int:
        """Return the latent frame at time position 0 during a block of `frames` latent frames."""
        oldest = self.frames - len(self.visible(frames, config))
        limit = min(config.position_limit, POSITIONS_TRAINED - config.frames - frames)
        return oldest if config.bounded or self.frames - self.base + frames > limit else self.base

    def advanced(self, made: Sequence[Page], references: Page | None, config: WindowConfig) -> Window:
        """Return the window behind a block, of whose latent frames and references these are the pages."""
        return Window(
            self.frames + len(made),
            self.base_for(len(made), config),
            self.references if references is None else references,
            (self.visible(len(made), config) + tuple(made))[-config.frames :],
        )


def reference_times(slots: int, tokens: int) -> range:
    """Return the time positions of reference slots of so many tokens: far before all video."""
    distance = max(tokens, 256)
    return range(-slots * distance, 0, distance)


def window_bytes(
    config: AbotTransformerConfig,
    window: WindowConfig,
    latent_size: tuple[int, int],
    reference_latents: int,
    itemsize: int,
    *,
    references: bool = True,
) -> int:
    """Return the bytes of a rollout's pages when its window is full.

    Args:
        config: Sizes of the transformer.
        window: Sizes of the window.
        latent_size: Rows and columns of a latent frame.
        reference_latents: Rows, and columns, of a reference slot.
        itemsize: Bytes of a number.
        references: Whether there are reference slots.
    """
    slots = window.reference_slots * config.tokens_per_frame((reference_latents, reference_latents))
    rows = slots * references + window.frames * config.tokens_per_frame(latent_size)
    return 2 * config.num_layers * rows * config.dim * itemsize


def gather(rows: Sequence[Rows], world: int, first: int, pages: Sequence[Page], cos: Tensor, sin: Tensor) -> None:
    """Write pages into a batch's buffers of all layers, one behind the other, their keys rotated.

    Args:
        rows: The buffers of each layer.
        world: The row of the batch.
        first: The row of the buffers for the first token.
        pages: At least one.
        cos: float32 [tokens of all pages, head_dim / 2] cosines of the tokens' angles.
        sin: The sines.
    """
    last = first + len(cos)
    for number, layer in enumerate(rows):
        layer.keys[world, :, first:last] = rotated(torch.cat([page.keys[number] for page in pages], dim=1), cos, sin)
        layer.values[world, :, first:last] = torch.cat([page.values[number] for page in pages], dim=1)


def pages_of(kept: Sequence[tuple[Tensor, Tensor]], world: int, tokens: Sequence[int]) -> list[Page]:
    """Cut the keys and values that a call kept of one world into pages of so many tokens each.

    Args:
        kept: Of each layer, keys and values [batch, heads, rows, head_dim].
        world: The row of the batch.
        tokens: Tokens of each page, in the order of the rows.
    """
    keys, values = (torch.stack([layer[part][world] for layer in kept]) for part in range(2))
    cut = zip(keys.split(list(tokens), dim=2), values.split(list(tokens), dim=2), strict=True)
    return [Page(k.clone(), v.clone()) for k, v in cut]
