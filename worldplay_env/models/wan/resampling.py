"""Between the levels of the autoencoder: smaller and larger in space and time (spec section 5).

Every level has two ways that are added: a learned one (`Downsampler`, `Upsampler`) and a shortcut without parameters
(`average_down`, `duplicate_up`).
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldplay_env.models.wan.causal import CausalConv3d, Stream, prepend


def average_down(x: Tensor, out_channels: int, time: int, space: int) -> Tensor:
    """Shrink by `time` and `space`, gathering each box into channels (c, t, y, x), then averaging runs of those.

    An odd number of frames gets a zero frame in front, so that the first frame has a box of its own.
    [B, C, F, h, w] -> [B, out_channels, ceil(F / time), h / space, w / space].
    """
    if (missing := -x.shape[2] % time) > 0:
        x = F.pad(x, (0, 0, 0, 0, missing, 0))
    x = rearrange(x, "b c (f t) (h y) (w x) -> b f h w (c t y x)", t=time, y=space, x=space)
    return x.unflatten(-1, (out_channels, -1)).mean(dim=-1).movedim(-1, 1)


def duplicate_up(x: Tensor, out_channels: int, time: int, space: int) -> Tensor:
    """Grow by `time` and `space`, repeating channels and then spreading them over each box in the order (t, y, x).

    [B, C, F, h, w] -> [B, out_channels, F * time, h * space, w * space].
    """
    x = x.movedim(1, -1).repeat_interleave(out_channels * time * space**2 // x.shape[1], dim=-1)
    x = rearrange(x, "b f h w (c t y x) -> b (f t) (h y) (w x) c", t=time, y=space, x=space)
    return x.movedim(-1, 1)


class Downsampler(nn.Module):
    """Halves rows and columns and, if asked, time: the first frame stays, every later pair becomes one."""

    def __init__(self, channels: int, halve_time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if halve_time else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, F, h, w] to [B, C, F or (F + 1) / 2, h / 2, w / 2]."""
        batch, frames = x.shape[0], x.shape[2]
        x = self.resample(rearrange(x, "b c f h w -> (b f) c h w"))
        x = rearrange(x, "(b f) c h w -> b c f h w", b=batch)
        if self.time_conv is None or frames == 1:
            return x
        # Frames 1, 2 see frame 0; 3, 4 see frame 2; and so on: a plain stride of 2 that starts at frame 0.
        return prepend(x[:, :, :1], self.time_conv(x))


class UpsampledConv2d(nn.Conv2d):
    """Doubles rows and columns by repetition and convolves with a 3x3 kernel, in one convolution of the small image.

    Each output pixel sees 2x2 small pixels, some of them more than once. So a block of 2x2 output pixels, around the
    corner of four small pixels, is their 2x2 convolution with summed kernels: 4/9 of the operations.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in, h, w] to [N, out, 2 h, 2 w]."""
        # A side's three taps w0 w1 w2, summed in twos: w0, w0 + w1, w1 + w2, w2. The upper pixel of a block takes the
        # second and fourth of them, the lower one the first and third.
        sums = 4 * F.avg_pool2d(self.weight, 2, stride=1, padding=1)  # [out, in, 4, 4]
        kernels = rearrange(sums, "o i (p y) (q x) -> o y x i p q", y=2, x=2).flip(1, 2).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        blocks = F.conv2d(x, kernels, bias, padding=1)  # [N, 4 out, h + 1, w + 1]
        pixels = rearrange(blocks, "n (o y x) h w -> n (h y) (w x) o", y=2, x=2)
        return pixels[:, 1:-1, 1:-1].movedim(-1, 1)


class Upsampler(nn.Module):
    """Doubles rows and columns and, if asked, time: latent frame 0 stays one frame, every later frame becomes two."""

    def __init__(self, channels: int, double_time: bool) -> None:
        super().__init__()
        # Checkpoints know the convolution as `resample.1`, after an enlargement that is part of it here.
        self.resample = nn.Sequential(nn.Identity(), UpsampledConv2d(channels, channels))
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if double_time else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Map [B, C, F, h, w] to [B, C, F or 2 F (2 F - 1 in the first pass), 2 h, 2 w]."""
        if self.time_conv is not None:
            x = self._double_time(x, stream)
        batch = x.shape[0]
        x = self.resample(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(x, "(b f) c h w -> b c f h w", b=batch)

    def _double_time(self, x: Tensor, stream: Stream) -> Tensor:
        assert self.time_conv is not None
        kept, doubled = (x[:, :, :1], x[:, :, 1:]) if stream.first else (x[:, :, :0], x)
        if doubled.shape[2] == 0:
            stream.extend(doubled)
            return kept
        doubled = self.time_conv(doubled, stream)
        doubled = rearrange(doubled, "b (two c) f h w -> b (f two) h w c", two=2).movedim(-1, 1)
        return prepend(kept, doubled) if stream.first else doubled
