"""A small decoder of Wan 2.2's latents (taew2_2): convolutions frame by frame, with a memory of one frame.

It decodes latents as the transformer works on them, normalised. Parameters have the names of the published file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldplay_env.models.codec import IMAGE_CHANNELS, DecoderState
from worldplay_env.models.config import AutoencoderConfig
from worldplay_env.models.wan.autoencoder import EncodingCodec, RMSNorm
from worldplay_env.models.wan.cost import convolution

_GROWTH = (1, 2, 2)
"""How many frames each level makes of one; each doubles the sides as well."""
_MEMORIES = 3
"""Memory blocks of a level."""
_PATCH = 2
_TIME = 4
_SPACE = _PATCH * 2 ** len(_GROWTH)


@dataclass(frozen=True)
class SmallDecoderConfig:
    """Sizes of the small decoder; by default those of the published one."""

    widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    """Channels of the three levels, and behind them."""


class _SoftClamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class _MemoryBlock(nn.Module):
    """A residual block that sees its input one frame earlier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _convolution(2 * channels, channels),
            nn.ReLU(),
            _convolution(channels, channels),
            nn.ReLU(),
            _convolution(channels, channels),
        )

    def forward(self, x: Tensor, before: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """Map frames [b f, c, h, w], given the last one before them, [b, c, 1, h, w]; return them and their last."""
        frames = x.unflatten(0, (batch, -1))  # [b, f, c, h, w]
        first = torch.zeros_like(frames[:, :1]) if before is None else before.transpose(1, 2)
        past = torch.cat([first, frames[:, :-1]], dim=1).flatten(0, 1)
        last = frames[:, -1:].transpose(1, 2).clone()  # a view would keep all frames alive
        return F.relu(self.conv(torch.cat([x, past], dim=1)) + x), last


class _Grow(nn.Module):
    """Makes several frames of one, the earlier ones first."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(channels, times * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).unflatten(1, (self.times, -1)).flatten(0, 1)


class SmallDecoder(nn.Sequential):
    """The decoder alone.

    Args:
        channels: Of the latents.
        config: Sizes.
    """

    def __init__(self, channels: int, config: SmallDecoderConfig) -> None:
        widths = config.widths
        layers: list[nn.Module] = [_SoftClamp(), _convolution(channels, widths[0]), nn.ReLU()]
        for width, wider, times in zip(widths, widths[1:], _GROWTH, strict=False):
            layers += [_MemoryBlock(width) for _ in range(_MEMORIES)]
            layers += [nn.Upsample(scale_factor=2), _Grow(width, times), _convolution(width, wider, bias=False)]
        layers += [nn.ReLU(), _convolution(widths[-1], IMAGE_CHANNELS * _PATCH**2)]
        super().__init__(*layers)

    @property
    def grown(self) -> dict[str, int]:
        """The names of the kernels that make several frames of one, and their rows."""
        return {
            f"{name}.conv.weight": layer.conv.out_channels
            for name, layer in self.named_children()
            if isinstance(layer, _Grow)
        }

    def forward(  # type: ignore[override]
        self, latents: Tensor, histories: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Decode the next latent frames of a stream.

        Args:
            latents: [b, c, f, h, w], normalised.
            histories: What the call before returned; None if the latents begin with latent frame 0.

        Returns:
            Frames [b, 3, F, H, W] in [-1, 1] but for what overshoots, and a frame [b, c, 1, h, w] a memory block.
        """
        batch = len(latents)
        x = latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        after: list[Tensor] = []
        for layer in self:
            if isinstance(layer, _MemoryBlock):
                x, last = layer(x, None if histories is None else histories[len(after)], batch)
                after.append(last)
            else:
                x = layer(x)
        frames = F.pixel_shuffle(x, _PATCH).unflatten(0, (batch, -1)).transpose(1, 2)
        if histories is None:  # latent frame 0 is one image
            frames = frames[:, :, _TIME - 1 :]
        return 2 * frames - 1, tuple(after)


class SmallCodec(EncodingCodec):
    """The encoder of Wan 2.2 with the small decoder.

    Args:
        config: Sizes of the encoder.
        small: Sizes of the decoder.
        norm_eps: What the encoder's norms add to a mean square.

    Raises:
        ValueError: Latents that the decoder does not fit: it makes 4 images of 16x16 pixels of one.
    """

    def __init__(
        self, config: AutoencoderConfig, small: SmallDecoderConfig, *, norm_eps: float = RMSNorm.EPS
    ) -> None:
        if (config.temporal_factor, config.spatial_factor) != (_TIME, _SPACE):
            raise ValueError(
                f"the small decoder makes {_TIME} images of a latent frame and {_SPACE} pixels a side; this world's "
                f"latents stand for {config.temporal_factor} images and {config.spatial_factor} pixels"
            )
        super().__init__(config, norm_eps=norm_eps)
        self.small = small
        self.decoder = SmallDecoder(config.z_dim, small)

    def decode(
        self, latents: Tensor, state: DecoderState | None = None, *, clamp: bool = True
    ) -> tuple[Tensor, DecoderState]:
        """Decode the next latent frames of a stream (see `Codec.decode`)."""
        self._check_latents(latents)
        weight = self.quant_conv.weight
        if state is not None:
            batch, _, _, height, width = latents.shape
            state.check((batch, self.small.widths[0], 1, height, width), weight)
        frames, histories = self.decoder(latents.to(weight.dtype), state and state.histories)
        return (frames.clamp(-1, 1) if clamp else frames), DecoderState.after(state, histories, latents)

    def state_shapes(self, latent_size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Return the shapes of the histories of one rollout's state."""
        rows, columns = latent_size
        return [
            (1, width, 1, rows << level, columns << level)
            for level, width in enumerate(self.small.widths[: len(_GROWTH)])
            for _ in range(_MEMORIES)
        ]

    def largest_decoded(self, latent_size: tuple[int, int], frames: int) -> int:
        """Return how many numbers the largest tensor between layers has while `frames` latent frames are decoded."""
        positions, largest = latent_size[0] * latent_size[1], 0
        for width, wider, times in zip(self.small.widths, self.small.widths[1:], _GROWTH, strict=False):
            largest = max(largest, 2 * width * frames * positions)
            positions, frames = 4 * positions, times * frames
            largest = max(largest, width * frames * positions, wider * frames * positions)
        return max(largest, IMAGE_CHANNELS * _PATCH**2 * frames * positions)

    def decode_operations(self, latent_size: tuple[int, int], frames: int, *, first: bool) -> int:
        """Return the operations of decoding `frames` latent frames (of frame 0 all images are made)."""
        widths, places = self.small.widths, frames * latent_size[0] * latent_size[1]
        total = convolution(self.config.z_dim, widths[0], 9, places)
        for width, wider, times in zip(widths, widths[1:], _GROWTH, strict=False):
            total += _MEMORIES * 2 * convolution(width, width, 18, places)
            places *= 4
            total += convolution(width, times * width, 1, places)
            places *= times
            total += convolution(width, wider, 9, places)
        return total + convolution(widths[-1], IMAGE_CHANNELS * _PATCH**2, 9, places)


def _convolution(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
