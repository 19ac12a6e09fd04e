"""ABot-World as a `World`: held keys in, video out, the newest latent frames as its only memory."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldplay_env.media.image import cover_image, stretch_image
from worldplay_env.models.abot.config import REFERENCES, AbotWorldConfig
from worldplay_env.models.abot.cost import forward_operations
from worldplay_env.models.abot.footprint import Footprint, footprint
from worldplay_env.models.abot.picture import pixels_of
from worldplay_env.models.abot.transformer import AbotTransformer
from worldplay_env.models.abot.window import Page
from worldplay_env.models.codec import Codec
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.models.wan.transforms import Transform
from worldplay_env.worlds.abot.generator import BlockGenerator, Renoise
from worldplay_env.worlds.abot.rollout import AbotRollout, PastBlock
from worldplay_env.worlds.base import Control, Start
from worldplay_env.worlds.diffusion.latent_rollout import renoise as drawn
from worldplay_env.worlds.diffusion.latent_world import LatentWorld
from worldplay_env.worlds.diffusion.room import Needed


def draw_renoise(rollout: AbotRollout, step: int) -> Tensor:
    """Draw the noise after a step of a rollout's next chunk, a function of (seed, chunk, step) alone."""
    return drawn(rollout.world.latent_shape, rollout.seed, rollout.chunks, step)


class AbotWorld(LatentWorld):
    """A `World` made by ABot-World's diffusion transformer and a codec.

    ## Actions
    The model is told held keys, not cameras: those of a `Control`, by default the keys of its labels. It was trained
    on keys that are held for a whole chunk. Cameras are what the keys would do at the nominal speeds of `motion`: the
    model promises no metric scale, and does not return to a place because its pose returns.

    ## Memory
    A chunk sees the newest latent frames, `layout.memory` at most, and the reference slots. Their keys and values are
    pages, one for each latent frame, which are never written to after the step that made them. A fork or a snapshot
    holds the same pages and copies nothing; stepped, it makes pages of its own. Pages go when the rollout, its forks
    and its snapshots are gone; `release` gives back the buffers alone. `save` writes the pages, and `load_rollout`
    reads them.

    `footprint` has the bytes, computed from the sizes. With 704x1280 images in bfloat16:

    | | GB |
    | - | - |
    | a rollout whose window is full (7 chunks or more) | 7.3 |
    | a fork that was not stepped | 0 |
    | each step of a fork, until it shares no page but the references' | 1.0 |
    | buffers, for each rollout of the largest batch | 7.3 |

    The small decoder's state takes 0.04 GB a rollout, the full one's 3.2 GB.

    So N rollouts that are stepped together take N x 14.6 GB beside the parameters and the decoder's states; stepped
    one at a time, N x 7.3 + 7.3. Rollouts without a chunk go through in one pass, those of all other ages in another.
    A step whose pages and buffers will not fit raises `OutOfMemoryError` before it allocates them; that and any other
    `WorldError` leaves every rollout as it was.

    Args:
        config: Sizes; those of the networks must be the networks' own.
        transformer: The velocity field, in its compute dtype.
        codec: Encodes pictures and decodes the chunks; on the same device.
        text_encoder: Makes prompt embeddings; without one, `start` must be given them.
        weights: Where the parameters came from ("random", a revision).
        weights_hash: Digest of the files they were read from; by default one of the parameters, made when asked for.
        latents_per_decode: Latent frames that a decoder pass takes, by default those of a chunk: fewer need less
            memory, frames are equal.
        renoise: Draws the noise between the steps of a rollout's next chunk.
        transforms: Functions that are given the transformer, then the codec, in this order; each returns the
            network that takes its place (see `models.wan.transforms`).
    """

    rollout_type = AbotRollout
    config: AbotWorldConfig
    transformer: AbotTransformer

    def __init__(
        self,
        config: AbotWorldConfig,
        transformer: AbotTransformer,
        codec: Codec,
        text_encoder: TextEncoder | None = None,
        *,
        weights: str = "random",
        weights_hash: str | None = None,
        latents_per_decode: int | None = None,
        renoise: Renoise = draw_renoise,
        transforms: Sequence[Transform] = (),
    ) -> None:
        super().__init__(
            config,
            transformer,
            codec,
            text_encoder,
            lambda network: BlockGenerator(config, network, renoise),
            weights=weights,
            weights_hash=weights_hash,
            latents_per_decode=latents_per_decode,
            transforms=transforms,
        )
        self.references = REFERENCES[: config.window.reference_slots]

    @property
    def footprint(self) -> Footprint:
        """The bytes of a rollout, of a step and of the buffers."""
        return footprint(self.config, self.codec, self._latents_per_decode, self.dtype.itemsize)

    def needed(self, batch: int, buffered: int, kept: int) -> Needed:
        """Return what the next chunk takes (see `LatentWorld.needed`)."""
        one = self.footprint
        return Needed(kept * one.block + max(0, batch - buffered) * one.buffer, batch * one.passing)

    def made_up(self, latents: Tensor, control: Control, before: AbotRollout) -> PastBlock:
        """Return what `commit` takes, for given latents and random pages (see `LatentWorld.made_up`)."""
        sizes, window = self.config.transformer, before.window
        shape = (sizes.num_layers, sizes.num_attention_heads)

        def page(tokens: int) -> Page:
            made = torch.randn(2, *shape, tokens, sizes.attention_head_dim, device=self.device, dtype=self.dtype)
            return Page(*(part.clone() for part in made))

        slots = self.config.window.reference_slots
        references = page(self.config.reference_tokens) if slots and not window.frames else None
        pages = [page(self.config.tokens_per_frame) for _ in range(self.layout.latents)]
        return PastBlock(latents, control.poses[-1], window.advanced(pages, references, self.config.window))

    def operations(self, chunks: int) -> dict[str, int]:
        """Return the operations of a rollout's next chunk (see `LatentWorld.operations`)."""
        config, latents = self.config, self.layout.latents
        call = forward_operations(
            config.transformer,
            config.latent_size,
            latents,
            seen=min(chunks * latents, self.layout.memory),
            references=config.reference_tokens,
            first=chunks == 0,
            text_tokens=config.text.text_len,
        )
        calls = {f"denoise_{index}": call for index in range(len(config.schedule.steps))}
        decode = self.codec.decode_operations(config.latent_size, latents, first=chunks == 0)
        return {**calls, "keep": call, "decode": decode}

    def _kind(self, rollout: AbotRollout) -> Hashable:
        return rollout.chunks == 0

    def _more_of(self, start: Start, seed: int) -> dict[str, Any]:
        if not start.references:
            return {"references": None}
        size = (self.config.window.reference_size,) * 2
        latents = [self._encoded(stretch_image(picture, size), seed) for picture in start.references]
        return {"references": torch.stack([latent[:, 0] for latent in latents])}

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        return cover_image(image, self.image_size)

    def _pixels(self, picture: np.ndarray) -> Tensor:
        return pixels_of(picture).to(self.device)
