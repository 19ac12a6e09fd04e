"""How many floating point operations each part of a chunk takes, from the configuration alone.

What is counted are matrix products and convolutions, as they are carried out, a multiplication and an addition being
two operations: the count that `torch.utils.flop_counter.FlopCounterMode` makes of a run. Norms, activations and
rotary positions are left out; they are bound by memory, and together well under a hundredth of it.
"""

from __future__ import annotations

from math import prod

from worldplay_env.models.config import AutoencoderConfig, TransformerConfig, WorldConfig
from worldplay_env.models.wan.autoencoder import IMAGE_CHANNELS
from worldplay_env.models.worldplay.attention import BRANCHES

PROJECTED_IN_QUERIES_AND_OUTPUTS = 2
"""Tensors that PRoPE multiplies by camera matrices besides the keys and values."""
PROJECTED_IN_KEYS_AND_VALUES = 2


def chunk_operations(config: WorldConfig, memory: int, frames: int, *, first: bool) -> dict[str, int]:
    """Return the operations of one chunk by part: "prefill", "denoise" (one step of it) and "decode".

    Args:
        config: The world's sizes.
        memory: Latent frames of memory that the chunk sees.
        frames: Latent frames of the chunk.
        first: Whether it is chunk 0, whose first latent frame decodes to one image.
    """
    transformer = config.transformer
    return {
        "prefill": prefill_operations(transformer, config.latent_size, memory, config.text.text_len),
        "denoise": forward_operations(transformer, config.latent_size, frames, memory, config.text.text_len),
        "decode": decode_operations(config.autoencoder, config.latent_size, frames, first=first),
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


# ---- autoencoder


def decode_operations(config: AutoencoderConfig, latent_size: tuple[int, int], frames: int, *, first: bool) -> int:
    """Return the operations of decoding `frames` latent frames, in any split.

    Args:
        config: The autoencoder's sizes.
        latent_size: Rows and columns of a latent frame.
        frames: How many latent frames.
        first: Whether they begin with latent frame 0, whose time is never doubled.
    """
    height, width = latent_size
    channels = config.decoder_base_dim * config.dim_mult[-1]
    total = _convolution(config.z_dim, config.z_dim, 1, frames * height * width)
    total += _convolution(config.z_dim, channels, 27, frames * height * width)
    total += _middle_operations(channels, frames, height * width)
    double_time = config.temporal_downsample[::-1]
    for level, factor in enumerate(reversed(config.dim_mult)):
        out_channels = config.decoder_base_dim * factor
        for _ in range(config.num_res_blocks + 1):
            total += _residual_operations(channels, out_channels, frames * height * width)
            channels = out_channels
        if level == len(double_time):
            break
        if double_time[level]:
            doubled = frames - first
            total += _convolution(channels, 2 * channels, 3, doubled * height * width)
            frames += doubled
        # Enlargement and 3x3 convolution in one: 2x2 kernels around the corners of the small image.
        total += _convolution(channels, 4 * channels, 4, frames * (height + 1) * (width + 1))
        height, width = 2 * height, 2 * width
    patch = IMAGE_CHANNELS * config.patch_size**2
    return total + _convolution(channels, patch, 27, frames * height * width)


def encode_operations(config: AutoencoderConfig, image_size: tuple[int, int]) -> int:
    """Return the operations of encoding one image, height x width pixels."""
    height, width = (side // config.patch_size for side in image_size)
    channels = config.base_dim
    total = _convolution(IMAGE_CHANNELS * config.patch_size**2, channels, 27, height * width)
    for level, factor in enumerate(config.dim_mult):
        out_channels = config.base_dim * factor
        for _ in range(config.num_res_blocks):
            total += _residual_operations(channels, out_channels, height * width)
            channels = out_channels
        if level < len(config.temporal_downsample):
            height, width = height // 2, width // 2
            total += _convolution(channels, channels, 9, height * width)
    total += _middle_operations(channels, 1, height * width)
    total += _convolution(channels, 2 * config.z_dim, 27, height * width)
    return total + _convolution(2 * config.z_dim, 2 * config.z_dim, 1, height * width)


def _convolution(in_channels: int, out_channels: int, taps: int, positions: int) -> int:
    """One convolution with `taps` weights a pair of channels, at `positions` places of its output."""
    return 2 * in_channels * out_channels * taps * positions


def _residual_operations(in_channels: int, out_channels: int, positions: int) -> int:
    shortcut = _convolution(in_channels, out_channels, 1, positions) if in_channels != out_channels else 0
    first = _convolution(in_channels, out_channels, 27, positions)
    return first + _convolution(out_channels, out_channels, 27, positions) + shortcut


def _middle_operations(channels: int, frames: int, positions: int) -> int:
    """Two residual blocks and, between them, single-head attention among the positions of each frame."""
    attention = _convolution(channels, 4 * channels, 1, positions) + _attention_operations(
        channels, positions, positions
    )
    return 2 * _residual_operations(channels, channels, frames * positions) + frames * attention
