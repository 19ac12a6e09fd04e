"""The layers that Wan 2.2 transformers are made of, and the conditioning of a block by frame.

Layers compute in the dtype of their input where their parameters are wider, as they are in training. Where both have
the same dtype, they are torch's own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """A layer norm that computes in the dtype of its parameters and returns that of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the channels of [..., dim]."""
        return super().forward(input.to(self.weight.dtype)).type_as(input)


class RMSNorm(nn.RMSNorm):
    """An RMS norm that computes in the dtype of its parameters and returns that of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of [..., dim]."""
        return super().forward(x.to(self.weight.dtype)).type_as(x)


class Embedder(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, in_dim: int, dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1 = Linear(in_dim, dim)
        self.activation = activation
        self.linear_2 = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_dim] to [..., dim]."""
        return self.linear_2(self.activation(self.linear_1(x)))


class FeedForward(nn.Module):
    """Linear, GELU (tanh approximation), Linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear_1 = Linear(dim, hidden_dim)
        self.linear_2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., dim]."""
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Return cosines, then sines, of values [...] at dim / 2 frequencies, [..., dim].

    In float64 of float64 values, else in float32.
    """
    values = values if values.dtype == torch.float64 else values.float()
    half = dim // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=values.dtype, device=values.device) / half
    angles = values[..., None] * torch.exp(exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalise the channels of x [..., n, dim], then scale and shift them by frame [..., 1, dim], in float32."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).type_as(x)


def gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """Add an update [..., n, dim] to the residual stream, gated by frame [..., 1, dim], in float32."""
    return (x.float() + update * gate).type_as(x)
