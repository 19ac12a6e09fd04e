"""How many floating point operations a block of ABot-World takes, from the configuration alone.

Matrix products and convolutions are counted, a multiplication and an addition as two operations, like
`worldplay_env.models.flops` counts those of WorldPlay.
"""

from __future__ import annotations

from math import prod

from worldplay_env.models.abot.config import AbotTransformerConfig


def forward_operations(
    config: AbotTransformerConfig,
    latent_size: tuple[int, int],
    frames: int,
    *,
    seen: int,
    references: int,
    first: bool,
    text_tokens: int,
) -> int:
    """Return the operations of one call over a block; a block takes one for each step and one over the result.

    Args:
        config: Sizes of the transformer.
        latent_size: Rows and columns of a latent frame.
        frames: Latent frames of the block.
        seen: Earlier latent frames that the block sees.
        references: Tokens of the reference slots.
        first: Whether it is a rollout's first block, whose calls have the references among their tokens.
        text_tokens: Tokens of a prompt embedding.
    """
    dim, n = config.dim, config.tokens_per_frame(latent_size)
    queries = frames * n + (references if first else 0)
    keys = (seen + frames) * n + references
    layer = (
        2 * queries * 4 * dim**2  # queries, keys, values and output of the self-attention
        + 2 * 2 * queries * keys * dim
        + 2 * queries * 2 * dim**2  # queries and output of the cross-attention
        + 2 * 2 * queries * text_tokens * dim
        + 2 * queries * 2 * dim * config.ffn_dim
    )
    patches = 2 * frames * n * config.in_channels * prod(config.patch_size) * dim
    conditioned = frames + first  # references are conditioned on a timestep of their own
    conditioning = 2 * conditioned * dim * (config.freq_dim + dim + 6 * dim)
    head = 2 * frames * n * dim * config.out_channels * prod(config.patch_size)
    return patches + conditioning + config.num_layers * layer + head
