"""The UMT5 text encoder: T5's encoder, with relative positions in every layer and gated feed-forward layers.

Parameters have the names of transformers' `UMT5EncoderModel`, and are registered in the same order.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldplay_env.models.config import TextConfig

BUCKETS = 32
"""Relative positions that attention tells apart, both directions together."""
MAX_DISTANCE = 128
"""Tokens from which on all distances are one bucket."""
EPS = 1e-6


class Umt5Encoder(nn.Module):
    """Token ids to hidden states.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = _Stack(config, self.shared)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return hidden states [batch, tokens, d_model]; those of padding have no meaning.

        Args:
            input_ids: int64 [batch, tokens].
            mask: [batch, tokens], 1 for a token and 0 for padding, which no token sees.
        """
        return self.encoder(input_ids, mask)


class _Stack(nn.Module):
    def __init__(self, config: TextConfig, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embed_tokens = embedding  # also its name in some files
        self.block = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = _Norm(config.d_model)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.embed_tokens(input_ids)
        buckets = relative_buckets(input_ids.shape[1], input_ids.device)
        padding = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device)
        padding = padding.masked_fill(mask == 0, torch.finfo(hidden.dtype).min)[:, None, None]
        for block in self.block:
            hidden = block(hidden, buckets, padding)
        return self.final_layer_norm(hidden)


class _Block(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList((_AttentionLayer(config), _FeedForwardLayer(config)))

    def forward(self, hidden: Tensor, buckets: Tensor, padding: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        return feed_forward(attention(hidden, buckets, padding))


class _AttentionLayer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.SelfAttention = _Attention(config)
        self.layer_norm = _Norm(config.d_model)

    def forward(self, hidden: Tensor, buckets: Tensor, padding: Tensor) -> Tensor:
        return hidden + self.SelfAttention(self.layer_norm(hidden), buckets, padding)


class _Attention(nn.Module):
    """Self-attention whose scores are not scaled, with a learned bias for each relative position and head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q = nn.Linear(config.d_model, width, bias=False)
        self.k = nn.Linear(config.d_model, width, bias=False)
        self.v = nn.Linear(config.d_model, width, bias=False)
        self.o = nn.Linear(width, config.d_model, bias=False)
        self.relative_attention_bias = nn.Embedding(BUCKETS, config.num_heads)

    def forward(self, hidden: Tensor, buckets: Tensor, padding: Tensor) -> Tensor:
        q, k, v = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias + padding, scale=1.0)
        return self.o(attended.transpose(1, 2).flatten(2))


class _FeedForwardLayer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.DenseReluDense = _FeedForward(config)
        self.layer_norm = _Norm(config.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.DenseReluDense(self.layer_norm(hidden))


class _FeedForward(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.wo(_gelu(self.wi_0(hidden)) * self.wi_1(hidden))


class _Norm(nn.Module):
    """Root mean square norm, in float32, with a weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        normed = hidden * torch.rsqrt(hidden.float().square().mean(-1, keepdim=True) + EPS)
        return self.weight * normed.to(self.weight.dtype)


def _gelu(x: Tensor) -> Tensor:
    """GELU by the tangent, rounded after each operation as transformers' is, which torch's own is not."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def relative_buckets(tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the bucket of each pair of tokens (seeing, seen), int64 [tokens, tokens].

    A quarter of the buckets are single distances back, a quarter distances up to `MAX_DISTANCE` in steps that grow
    with their logarithm; the others are the same ahead.
    """
    place = torch.arange(tokens, device=device)
    ahead = place[None, :] - place[:, None]
    distance, half = ahead.abs(), BUCKETS // 2
    exact = half // 2
    growth = torch.log(distance.float() / exact) / math.log(MAX_DISTANCE / exact)
    far = (exact + (growth * (half - exact)).to(torch.int64)).clamp(max=half - 1)
    return (ahead > 0) * half + torch.where(distance < exact, distance, far)
