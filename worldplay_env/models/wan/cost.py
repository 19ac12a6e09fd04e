"""What the Wan 2.2 autoencoder costs, from its configuration alone: operations, and its largest tensor.

Operations are counted as `models/flops.py` counts them.
"""

from __future__ import annotations

from worldplay_env.models.codec import IMAGE_CHANNELS
from worldplay_env.models.config import AutoencoderConfig


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
    total = convolution(config.z_dim, config.z_dim, 1, frames * height * width)
    total += convolution(config.z_dim, channels, 27, frames * height * width)
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
            total += convolution(channels, 2 * channels, 3, doubled * height * width)
            frames += doubled
        # Enlargement and 3x3 convolution in one: 2x2 kernels around the corners of the small image.
        total += convolution(channels, 4 * channels, 4, frames * (height + 1) * (width + 1))
        height, width = 2 * height, 2 * width
    patch = IMAGE_CHANNELS * config.patch_size**2
    return total + convolution(channels, patch, 27, frames * height * width)


def encode_operations(config: AutoencoderConfig, image_size: tuple[int, int]) -> int:
    """Return the operations of encoding one image, height x width pixels."""
    height, width = (side // config.patch_size for side in image_size)
    channels = config.base_dim
    total = convolution(IMAGE_CHANNELS * config.patch_size**2, channels, 27, height * width)
    for level, factor in enumerate(config.dim_mult):
        out_channels = config.base_dim * factor
        for _ in range(config.num_res_blocks):
            total += _residual_operations(channels, out_channels, height * width)
            channels = out_channels
        if level < len(config.temporal_downsample):
            height, width = height // 2, width // 2
            total += convolution(channels, channels, 9, height * width)
    total += _middle_operations(channels, 1, height * width)
    total += convolution(channels, 2 * config.z_dim, 27, height * width)
    return total + convolution(2 * config.z_dim, 2 * config.z_dim, 1, height * width)


def convolution(in_channels: int, out_channels: int, taps: int, positions: int) -> int:
    """One convolution with `taps` weights a pair of channels, at `positions` places of its output."""
    return 2 * in_channels * out_channels * taps * positions


def _residual_operations(in_channels: int, out_channels: int, positions: int) -> int:
    shortcut = convolution(in_channels, out_channels, 1, positions) if in_channels != out_channels else 0
    first = convolution(in_channels, out_channels, 27, positions)
    return first + convolution(out_channels, out_channels, 27, positions) + shortcut


def _middle_operations(channels: int, frames: int, positions: int) -> int:
    """Two residual blocks and, between them, single-head attention among the positions of each frame."""
    attention = convolution(channels, 4 * channels, 1, positions) + 2 * 2 * positions**2 * channels
    return 2 * _residual_operations(channels, channels, frames * positions) + frames * attention


def largest_decoded(config: AutoencoderConfig, latent_size: tuple[int, int], frames: int) -> int:
    """Return how many numbers the largest tensor has between two layers while `frames` latent frames are decoded."""
    height, width = latent_size
    channels = config.decoder_base_dim * config.dim_mult[-1]
    largest = 0
    double_time = config.temporal_downsample[::-1]
    for level, factor in enumerate(reversed(config.dim_mult)):
        out_channels = config.decoder_base_dim * factor
        largest = max(largest, max(channels, out_channels) * frames * height * width)
        channels = out_channels
        if level < len(double_time):
            frames *= 2 if double_time[level] else 1
            height, width = 2 * height, 2 * width
    return max(largest, IMAGE_CHANNELS * config.patch_size**2 * frames * height * width)
