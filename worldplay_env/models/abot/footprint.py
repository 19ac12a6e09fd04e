"""The memory of ABot-World's rollouts and chunks, from the configuration alone, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from worldplay_env.models.abot.config import AbotWorldConfig
from worldplay_env.models.abot.window import window_bytes
from worldplay_env.models.codec import Codec
from worldplay_env.models.footprint import LAYERS_AT_ONCE, TOKENS_AT_ONCE


@dataclass(frozen=True)
class Footprint:
    """Bytes for one world, beside the parameters.

    Attributes:
        window: Of a rollout whose window is full. A fork shares all of it until it is stepped.
        block: Of the pages that one step adds to a rollout. Until the window is full nothing leaves in return.
        buffer: Of the key/value buffers for one world of the largest batch; the world has them, not the rollout.
        passing: Of what is alive while the networks run: an estimate.
    """

    window: int
    block: int
    buffer: int
    passing: int


def footprint(config: AbotWorldConfig, codec: Codec, latents_per_decode: int, itemsize: int) -> Footprint:
    """Return the bytes that one world takes.

    Args:
        config: The world's sizes.
        codec: What decodes the chunks.
        latents_per_decode: Latent frames that a decoder pass takes.
        itemsize: Bytes of a number.
    """
    window = window_bytes(config.transformer, config.window, config.latent_size, config.reference_latents, itemsize)
    a_token = 2 * config.transformer.num_layers * config.transformer.dim * itemsize
    block_tokens = config.window.block * config.tokens_per_frame
    call = TOKENS_AT_ONCE * (block_tokens + config.reference_tokens) * config.transformer.dim
    decoder = LAYERS_AT_ONCE * codec.largest_decoded(config.latent_size, latents_per_decode)
    return Footprint(
        window=window,
        block=block_tokens * a_token,
        buffer=window,
        passing=max(call, decoder) * itemsize,
    )
