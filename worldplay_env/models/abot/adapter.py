"""The action adapter: held keys, or a tensor of actions, to what is added to the tokens of a latent frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldplay_env.models.abot.config import IMAGES_PER_LATENT


class _ResidualBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class ActionAdapter(nn.Module):
    """Actions to additions to tokens; each latent frame by itself.

    Args:
        channels: Of an action tensor: the keys, each as often as a latent frame has images.
        downscale: Pixels of an action tensor to one latent pixel, along a side.
        dim: Width of a token.
        patch: Rows and columns of latent pixels in a token.
    """

    def __init__(self, channels: int, downscale: int, dim: int, patch: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.downscale = downscale
        self.conv = nn.Conv2d(channels * downscale**2, dim, patch, stride=patch)
        self.residual_blocks = nn.ModuleList([_ResidualBlock(dim)])

    def forward(self, actions: Tensor) -> Tensor:
        """Map actions of any content.

        Args:
            actions: [batch, channels, frames, height, width] in pixels: `downscale` times those of the latents.

        Returns:
            [batch, frames, tokens, dim].
        """
        frames = F.pixel_unshuffle(actions.transpose(1, 2).flatten(0, 1), self.downscale)
        return self._refined(self.conv(frames)).unflatten(0, (len(actions), -1))

    def of_keys(self, keys: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map held keys, which are the same all over a picture: the large convolution is a small matrix then.

        Args:
            keys: [batch, keys], 0 or 1 (see `action_channels`).
            grid: Rows and columns of tokens.

        Returns:
            [batch, tokens, dim].
        """
        kernel = self.conv.weight.flatten(2).sum(2)  # [dim, channels * downscale^2]
        kernel = kernel.unflatten(1, (-1, self.downscale**2)).sum(2)  # [dim, channels]
        added = F.linear(action_channels(keys).to(kernel.dtype), kernel, self.conv.bias)  # [batch, dim]
        return self._refined(added[..., None, None].expand(-1, -1, *grid))

    def _refined(self, x: Tensor) -> Tensor:
        """Pass [frames, dim, rows, columns] through the residual blocks; return [frames, tokens, dim]."""
        for block in self.residual_blocks:
            x = block(x)
        return x.flatten(2).transpose(1, 2)


def action_channels(keys: Tensor) -> Tensor:
    """Return the channels of an action tensor, [..., 4 keys]: each key once for each image of a latent frame."""
    return torch.repeat_interleave(keys, IMAGES_PER_LATENT, dim=-1)
