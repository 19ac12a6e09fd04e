"""The causal video autoencoder: images to latents and back, at once or in a stream (spec section 5).

The layout and the parameter names are those of Wan 2.2 (diffusers' `AutoencoderKLWan` with `is_residual`). Decoding
takes a state in and gives the next one out; nothing is kept in the module, so that one decoder serves any number of
rollouts. Activations lie channels-last in memory all the way (rearrangements write them so): there norms and
attention read whole channel vectors, and merging batch and time is a view.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldplay_env.models.codec import IMAGE_CHANNELS, Codec, DecoderState
from worldplay_env.models.config import AutoencoderConfig
from worldplay_env.models.wan import cost
from worldplay_env.models.wan.causal import HISTORY, CausalConv3d, Stream
from worldplay_env.models.wan.resampling import Downsampler, Upsampler, average_down, duplicate_up

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the posterior's log-variance, so that its exponential stays finite."""


class RMSNorm(nn.Module):
    """Scales the channel vector at each position to a root mean square of 1, times a learned factor a channel."""

    # Beside a squared norm, 1e-24 is what the specified floor of 1e-12 is beside a norm.
    EPS = 1e-24

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * dims))
        self.eps = self.EPS

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, ...] over C."""
        gamma = self.gamma.flatten().to(x.dtype)  # of one dtype, they are normalised in one fused pass
        return F.rms_norm(x.movedim(1, -1), (x.shape[1],), gamma, self.eps).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, causal convolution, twice; added to the input or, where the width changes, to its 1x1x1 map."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(in_channels, 3)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = RMSNorm(out_channels, 3)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = (
            CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Map [B, in, F, h, w] to [B, out, F, h, w]."""
        residual = self.conv1(F.silu(self.norm1(x)), stream)
        residual = self.conv2(F.silu(self.norm2(residual)), stream)
        return self.conv_shortcut(x) + residual


class AttentionBlock(nn.Module):
    """Single-head attention among the positions of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, F, h, w] to the same shape."""
        batch, _, _, height, _ = x.shape
        frames = rearrange(x, "b c f h w -> (b f) c h w")
        qkv = rearrange(self.to_qkv(self.norm(frames)), "n (three c) h w -> three n 1 (h w) c", three=3)
        out = F.scaled_dot_product_attention(*qkv.unbind())
        out = self.proj(rearrange(out, "n 1 (h w) c -> n c h w", h=height))
        return x + rearrange(out, "(b f) c h w -> b c f h w", b=batch)


class MidBlock(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels), ResidualBlock(channels, channels)])
        self.attentions = nn.ModuleList([AttentionBlock(channels)])

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Map [B, C, F, h, w] to the same shape."""
        x = self.resnets[0](x, stream)
        x = self.attentions[0](x)
        return self.resnets[1](x, stream)


class DownBlock(nn.Module):
    """Residual blocks and a downsampler (none at the last level), beside an averaging shortcut."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, *, halve: bool, halve_time: bool) -> None:
        super().__init__()
        self.out_channels, self.time, self.space = out_channels, 1 + halve_time, 1 + halve
        if in_channels * self.time * self.space**2 % out_channels:
            raise ValueError(
                f"no averaging shortcut from {in_channels} to {out_channels} channels: {out_channels} must divide "
                f"{in_channels} x {self.time * self.space**2}; change dim_mult"
            )
        widths = [in_channels] + [out_channels] * blocks
        self.resnets = nn.ModuleList([ResidualBlock(*pair) for pair in pairwise(widths)])
        self.downsampler = Downsampler(out_channels, halve_time) if halve else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, F, h, w] to [B, out, F', h', w']."""
        shortcut = average_down(x, self.out_channels, self.time, self.space)
        for resnet in self.resnets:
            x = resnet(x)
        if self.downsampler is not None:
            x = self.downsampler(x)
        return x + shortcut


class UpBlock(nn.Module):
    """Residual blocks and an upsampler beside a duplicating shortcut (neither at the last level)."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, *, double: bool, double_time: bool) -> None:
        super().__init__()
        self.out_channels, self.time, self.space = out_channels, 1 + double_time, 1 + double
        if double and out_channels * self.time * self.space**2 % in_channels:
            raise ValueError(
                f"no duplicating shortcut from {in_channels} to {out_channels} channels: {in_channels} must divide "
                f"{out_channels} x {self.time * self.space**2}; change dim_mult"
            )
        widths = [in_channels] + [out_channels] * blocks
        self.resnets = nn.ModuleList([ResidualBlock(*pair) for pair in pairwise(widths)])
        self.upsampler = Upsampler(out_channels, double_time) if double else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Map [B, in, F, h, w] to [B, out, F', h', w']."""
        before = x
        for resnet in self.resnets:
            x = resnet(x, stream)
        if self.upsampler is None:
            return x
        shortcut = duplicate_up(before, self.out_channels, self.time, self.space)
        if stream.first:
            shortcut = shortcut[:, :, self.time - 1 :]
        return self.upsampler(x, stream) + shortcut


class Encoder(nn.Module):
    """Patches of pixels to the posterior's parameters, a whole video in one pass."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.base_dim * factor for factor in (1, *config.dim_mult)]
        self.conv_in = CausalConv3d(IMAGE_CHANNELS * config.patch_size**2, widths[0])
        self.down_blocks = nn.ModuleList()
        for level, (width, next_width) in enumerate(pairwise(widths)):
            halve = level < len(config.temporal_downsample)
            halve_time = halve and config.temporal_downsample[level]
            self.down_blocks.append(
                DownBlock(width, next_width, config.num_res_blocks, halve=halve, halve_time=halve_time)
            )
        self.mid_block = MidBlock(widths[-1])
        self.norm_out = RMSNorm(widths[-1], 3)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.z_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, 3 patch^2, F, H / patch, W / patch] to [B, 2 z, f, h, w]."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents to patches of pixels, any number of latent frames a pass."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.decoder_base_dim * factor for factor in (config.dim_mult[-1], *config.dim_mult[::-1])]
        double_time = config.temporal_downsample[::-1]
        self.conv_in = CausalConv3d(config.z_dim, widths[0])
        self.mid_block = MidBlock(widths[0])
        self.up_blocks = nn.ModuleList()
        for level, (width, next_width) in enumerate(pairwise(widths)):
            double = level < len(double_time)
            self.up_blocks.append(
                UpBlock(
                    width,
                    next_width,
                    config.num_res_blocks + 1,
                    double=double,
                    double_time=double and double_time[level],
                )
            )
        self.norm_out = RMSNorm(widths[-1], 3)
        self.conv_out = CausalConv3d(widths[-1], IMAGE_CHANNELS * config.patch_size**2)

    def forward(self, x: Tensor, histories: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Map [B, z, f, h, w] and the histories (None before latent frame 0) to patches and the next histories."""
        stream = Stream(histories)
        x = self.mid_block(self.conv_in(x, stream), stream)
        for block in self.up_blocks:
            x = block(x, stream)
        x = self.conv_out(F.silu(self.norm_out(x)), stream)
        return x, tuple(stream.histories)


def _set_norm_eps(module: nn.Module, eps: float) -> None:
    for layer in module.modules():
        if isinstance(layer, RMSNorm):
            layer.eps = eps


class EncodingCodec(Codec):
    """The encoder of Wan 2.2 and its statistics; what follows from it leaves the decoder to choose.

    Images become `config.spatial_factor` times smaller a side, and `temporal_factor` of them one latent frame.
    """

    def __init__(self, config: AutoencoderConfig, *, norm_eps: float = RMSNorm.EPS) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self._known_statistics: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        _set_norm_eps(self, norm_eps)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole videos that begin with their first frame (see `Codec.encode`).

        The log-variance is within [-30, 20].
        """
        time, space, patch = self.config.temporal_factor, self.config.spatial_factor, self.config.patch_size
        shape = tuple(video.shape)
        if len(shape) != 5 or shape[1] != IMAGE_CHANNELS or shape[3] % space or shape[4] % space:
            raise ValueError(
                f"a video is [B, {IMAGE_CHANNELS}, F, H, W] with H and W divisible by {space}, got {shape}"
            )
        if shape[2] % time != 1 % time or shape[2] == 0:
            raise ValueError(f"a video has 1 + a multiple of {time} frames, got {shape[2]}")
        x = rearrange(video, "b c f (h y) (w x) -> b (c x y) f h w", y=patch, x=patch)
        x = x.to(self.quant_conv.weight.dtype, memory_format=torch.channels_last_3d)
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def normalise(self, latents: Tensor) -> Tensor:
        """Return (latents - mean) / std by the config's statistics, at least in float32 (spec section 4)."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Undo `normalise`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def encode_operations(self, image_size: tuple[int, int]) -> int:
        """Return the floating point operations of encoding one image of height x width pixels."""
        return cost.encode_operations(self.config, image_size)

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.config.z_dim or latents.shape[2] == 0:
            raise ValueError(f"latents are [B, {self.config.z_dim}, f >= 1, h, w], got {tuple(latents.shape)}")

    def _statistics(self, latents: Tensor) -> Tensor:
        """Return mean and standard deviation, [2, z, 1, 1, 1]; kept, since bringing them to a device waits for it."""
        # Not buffers: they are no part of a checkpoint, and loading must not be able to miss them.
        key = latents.device, torch.promote_types(latents.dtype, torch.float32)
        if key not in self._known_statistics:
            values = [self.config.latents_mean, self.config.latents_std]
            with torch.inference_mode(False):
                self._known_statistics[key] = torch.tensor(values, device=key[0], dtype=key[1])[..., None, None, None]
        return self._known_statistics[key]


class Autoencoder(EncodingCodec):
    """The whole autoencoder of Wan 2.2."""

    def __init__(self, config: AutoencoderConfig, *, norm_eps: float = RMSNorm.EPS) -> None:
        super().__init__(config, norm_eps=norm_eps)
        self.post_quant_conv = CausalConv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)
        _set_norm_eps(self, norm_eps)

    def decode(
        self, latents: Tensor, state: DecoderState | None = None, *, clamp: bool = True
    ) -> tuple[Tensor, DecoderState]:
        """Decode the next latent frames of a stream (see `Codec.decode`)."""
        self._check_latents(latents)
        weight = self.post_quant_conv.weight
        if state is not None:
            batch, channels, _, height, width = latents.shape
            state.check((batch, channels, HISTORY, height, width), weight)
        z = self.denormalise(latents).to(weight.dtype, memory_format=torch.channels_last_3d)
        patches, histories = self.decoder(self.post_quant_conv(z), state and state.histories)
        patch = self.config.patch_size
        frames = rearrange(patches, "b (c x y) f h w -> b c f (h y) (w x)", x=patch, y=patch)
        return (frames.clamp(-1, 1) if clamp else frames), DecoderState.after(state, histories, latents)

    def state_shapes(self, latent_size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Return the shapes of the histories of one rollout's state."""
        with torch.device("meta"):
            latents = torch.zeros(1, self.config.z_dim, 1, *latent_size)
            _, state = Autoencoder(self.config).decode(latents)
        return [tuple(history.shape) for history in state.histories]

    def largest_decoded(self, latent_size: tuple[int, int], frames: int) -> int:
        """Return how many numbers the largest tensor between layers has while `frames` latent frames are decoded."""
        return cost.largest_decoded(self.config, latent_size, frames)

    def decode_operations(self, latent_size: tuple[int, int], frames: int, *, first: bool) -> int:
        """Return the operations of decoding `frames` latent frames (see `Codec.decode_operations`)."""
        return cost.decode_operations(self.config, latent_size, frames, first=first)
