"""Causal convolution over time, in one pass or in a stream (spec section 5)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

HISTORY = 2
"""Past frames that a convolution with a time kernel of 3 sees."""
SLOW_KERNEL_LIMIT = 20480
"""On a CPU, PyTorch convolves one video whose channels x frames x rows are at most this by a kernel that is three to
ten times slower than the one it has for batches."""


class Stream:
    """One pass through a decoder: hands every causal convolution its history, and gathers the next ones.

    Attributes:
        first: Whether the pass starts with latent frame 0.
        histories: The new histories, in the order in which the convolutions ran.
    """

    def __init__(self, before: tuple[Tensor, ...] | None) -> None:
        self.first = before is None
        self.histories: list[Tensor] = []
        self._before = before

    def extend(self, x: Tensor) -> Tensor:
        """Put the next convolution's history before its input: [B, C, F, h, w] -> [B, C, 2 + F, h, w]."""
        x = prepend(blank(x) if self._before is None else self._before[len(self.histories)], x)
        # A copy: a view would keep the whole activation alive for as long as the rollout.
        self.histories.append(x[:, :, -HISTORY:].clone(memory_format=torch.channels_last_3d))
        return x


def blank(x: Tensor) -> Tensor:
    """Return the history of a stream that has not begun: zeros [B, C, 2, h, w] for `x` [B, C, F, h, w]."""
    batch, channels, _, height, width = x.shape
    return x.new_zeros((batch, HISTORY, height, width, channels)).movedim(-1, 1)


def prepend(history: Tensor, x: Tensor) -> Tensor:
    """Join frames in time, in memory order, where they follow one another: one plain copy."""
    return torch.cat([history.movedim(1, -1), x.movedim(1, -1)], dim=1).movedim(-1, 1)


class CausalConv3d(nn.Conv3d):
    """A 3-D convolution that sees no later frame: its kernel is 3 frames long, or 1x1x1 and then has no history."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int | tuple[int, int, int] = 3) -> None:
        time, height, width = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(in_channels, out_channels, (time, height, width), padding=(0, height // 2, width // 2))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Map [B, in, F, h, w] to [B, out, F, h, w]; without a stream, zeros lie before the first frame."""
        if self.kernel_size[0] > 1:
            x = prepend(blank(x), x) if stream is None else stream.extend(x)
            if x.device.type == "cpu" and x.shape[:4].numel() <= SLOW_KERNEL_LIMIT:
                return self._by_windows(x)
        return super().forward(x)

    def _by_windows(self, x: Tensor) -> Tensor:
        """Convolve [B, in, F, h, w] with each window of frames a row of the batch."""
        batch, time = x.shape[0], self.kernel_size[0]
        windows = rearrange(x.unfold(2, time, 1), "b c f h w time -> (b f) c time h w")
        out = super().forward(windows.contiguous(memory_format=torch.channels_last_3d))
        return rearrange(out, "(b f) c 1 h w -> b c f h w", b=batch)
