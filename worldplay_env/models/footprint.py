"""About how much memory a chunk takes beside the parameters, from sizes alone.

Key/value buffers are exact. What is alive at once while networks run is estimated: by so many of a part's largest
tensors, which with wan-5b in bfloat16 comes to 43 GB for one world with its parameters, where 42 GB were measured.
"""

from __future__ import annotations

from worldplay_env.models.codec import Codec
from worldplay_env.models.config import WorldConfig
from worldplay_env.models.worldplay.attention import BRANCHES
from worldplay_env.models.worldplay.memory import MEMORY

LAYERS_AT_ONCE = 4
"""Tensors of the size of the codec's largest that are alive at once while it decodes."""
TOKENS_AT_ONCE = 24
"""Tensors of the residual stream's size that are alive at once in a block of the transformer."""


def chunk_bytes(
    config: WorldConfig, codec: Codec, batch: int, latents_per_decode: int, frames: int, itemsize: int
) -> int:
    """Return about how many bytes a pass takes while it runs, the key/value buffers apart.

    Args:
        config: The world's sizes.
        codec: The world's codec.
        batch: Worlds that go through together.
        latents_per_decode: Latent frames that a decoder pass takes.
        frames: Latent frames of a chunk.
        itemsize: Bytes of a number.
    """
    tokens = max(MEMORY, frames) * config.tokens_per_frame
    block = TOKENS_AT_ONCE * tokens * config.transformer.dim
    decoder = LAYERS_AT_ONCE * codec.largest_decoded(config.latent_size, latents_per_decode)
    return batch * max(block, decoder) * itemsize


def buffer_bytes(config: WorldConfig, batch: int, frames: int, itemsize: int) -> int:
    """Return the bytes of the key/value buffers of `batch` worlds: memory, and `frames` latent frames of a chunk."""
    rows = (MEMORY + frames) * config.tokens_per_frame
    return 2 * BRANCHES * config.transformer.num_layers * batch * rows * config.transformer.dim * itemsize
