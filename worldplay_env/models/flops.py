"""How many floating point operations the transformer's part of a chunk takes, from the configuration alone.

What is counted are matrix products and convolutions, as they are carried out, a multiplication and an addition being
two operations: the count that `torch.utils.flop_counter.FlopCounterMode` makes of a run. Norms, activations and
rotary positions are left out; they are bound by memory, and together well under a hundredth of it.
"""

from __future__ import annotations

from math import prod

from worldplay_env.models.config import TransformerConfig, WorldConfig
from worldplay_env.models.worldplay.attention import BRANCHES

PROJECTED_IN_QUERIES_AND_OUTPUTS = 2
"""Tensors that PRoPE multiplies by camera matrices besides the keys and values."""
PROJECTED_IN_KEYS_AND_VALUES = 2


def chunk_operations(config: WorldConfig, memory: int, frames: int) -> dict[str, int]:
    """Return the operations of one chunk by part: "prefill" and "denoise" (one step of it).

    Those of decoding are the codec's (`Codec.decode_operations`).

    Args:
        config: The world's sizes.
        memory: Latent frames of memory that the chunk sees.
        frames: Latent frames of the chunk.
    """
    transformer = config.transformer
    return {
        "prefill": prefill_operations(transformer, config.latent_size, memory, config.text.text_len),
        "denoise": forward_operations(transformer, config.latent_size, frames, memory, config.text.text_len),
    }


# ---- transformer


def forward_operations(
    config: TransformerConfig, latent_size: tuple[int, int], frames: int, memory: int, text_tokens: int
) -> int:
    """Return the operations of one forward over a chunk: `frames` latent frames that see `memory` others."""
    n = config.tokens_per_frame(latent_size)
    tokens = frames * n
    head = 2 * tokens * config.dim * config.out_channels * prod(config.patch_size)
    block = _block_operations(config, tokens, tokens + memory * n, text_tokens)
    return _embedding_operations(config, frames, n) + config.num_layers * block + head


def prefill_operations(config: TransformerConfig, latent_size: tuple[int, int], frames: int, text_tokens: int) -> int:
    """Return the operations of a prefill over `frames` memory frames; its last block stops at keys and values."""
    if frames == 0:
        return 0
    n = config.tokens_per_frame(latent_size)
    tokens = frames * n
    whole_blocks = (config.num_layers - 1) * _block_operations(config, tokens, tokens, text_tokens)
    last = 2 * 2 * tokens * config.dim**2 + PROJECTED_IN_KEYS_AND_VALUES * _projection_operations(config, tokens)
    return _embedding_operations(config, frames, n) + whole_blocks + last


def _embedding_operations(config: TransformerConfig, frames: int, tokens_per_frame: int) -> int:
    """Patches, and one conditioning vector a latent frame: timestep, action and the modulation made of both."""
    dim = config.dim
    patches = 2 * frames * tokens_per_frame * config.in_channels * prod(config.patch_size) * dim
    conditioning = 2 * frames * dim * (2 * (config.freq_dim + dim) + 6 * dim)
    return patches + conditioning


def _block_operations(config: TransformerConfig, queries: int, keys: int, text_tokens: int) -> int:
    dim = config.dim
    self_attention = 2 * queries * (3 + BRANCHES) * dim**2 + BRANCHES * _attention_operations(dim, queries, keys)
    cameras = (PROJECTED_IN_QUERIES_AND_OUTPUTS + PROJECTED_IN_KEYS_AND_VALUES) * _projection_operations(
        config, queries
    )
    cross_attention = 2 * queries * 2 * dim**2 + _attention_operations(dim, queries, text_tokens)
    feed_forward = 2 * queries * 2 * dim * config.ffn_dim
    return self_attention + cameras + cross_attention + feed_forward


def _attention_operations(dim: int, queries: int, keys: int) -> int:
    """Queries with keys, and weights with values."""
    return 2 * 2 * queries * keys * dim


def _projection_operations(config: TransformerConfig, tokens: int) -> int:
    """One product of PRoPE: a 4x4 matrix with every group of four channels."""
    return 2 * tokens * config.dim * 4
