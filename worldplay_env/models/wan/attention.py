"""Attention, the keys and values that it reads, and the cross-attention to the prompt."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldplay_env.models.wan.layers import Linear, RMSNorm

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, [batch, heads, tokens, head_dim] each."""


class Attend(Protocol):
    """A function that computes softmax(q k^T / sqrt(head_dim)) v."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attend from queries to keys and values.

        Args:
            q: [batch, heads, queries, head_dim].
            k: [batch, heads, keys, head_dim].
            v: [batch, heads, keys, head_dim].
            seen: bool [batch, 1, 1, keys], at least one a row: the keys that are attended to. None: all.

        Returns:
            [batch, heads, queries, head_dim].
        """


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attend by the kernel that torch chooses (see `Attend`)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class LayerCache(Protocol):
    """Where one layer's self-attention puts its keys and values, and finds those of its memory."""

    def extend(self, k: Tensor, v: Tensor) -> KeysValues:
        """Put the rows of M = batch x frames latent frames behind the memory; return memory and rows together.

        Args:
            k: [M, tokens, heads, head_dim].
            v: The same.

        Returns:
            Keys and values, [batch, heads, memory and rows, head_dim] each.
        """


class Rows(NamedTuple):
    """One layer's keys and values in fixed buffers: memory, and behind it room for the rows of a call.

    Attributes:
        keys: [batch, heads, rows, head_dim].
        values: The same.
    """

    keys: Tensor
    values: Tensor

    def extend(self, k: Tensor, v: Tensor) -> KeysValues:
        """Write a call's rows over the last ones; return all (see `LayerCache`)."""
        for rows, new in ((self.keys, k), (self.values, v)):
            new = by_row(new, len(rows))
            rows[..., rows.shape[2] - new.shape[2] :, :] = new
        return self.keys, self.values


class KeyValueCache:
    """Buffers of keys and values of all layers, written in place: their addresses stay the same from call to call.

    Args:
        layers: How many there are.
        shape: Batch, heads, rows (tokens of memory and of a call together) and head_dim.
        device: Where the buffers are.
        dtype: The compute dtype.
    """

    def __init__(
        self, layers: int, shape: tuple[int, int, int, int], device: torch.device | None, dtype: torch.dtype
    ) -> None:
        self._buffers = [torch.empty(2, *shape, device=device, dtype=dtype) for _ in range(layers)]

    @property
    def batch(self) -> int:
        """Worlds that the buffers have room for."""
        return self._buffers[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def layers(self, batch: int, rows: int) -> list[Rows]:
        """Return each layer's first `rows` rows, of the first `batch` worlds, as views; a call writes the last."""
        return [Rows(*buffer[:, :batch, :, :rows]) for buffer in self._buffers]


def by_row(x: Tensor, batch: int) -> Tensor:
    """Gather the frames of each row of a batch: [batch x frames, tokens, heads, d] to [batch, heads, tokens, d]."""
    return x.unflatten(0, (batch, -1)).flatten(1, 2).transpose(1, 2)


def by_frame(x: Tensor, frames: int) -> Tensor:
    """Undo `by_row`: [batch, heads, tokens, d] to [batch x frames, tokens, heads, d]."""
    return x.transpose(1, 2).flatten(0, 1).unflatten(0, (frames, -1)).contiguous()


class Projections(nn.Module):
    """The linear layers of an attention: queries, keys and values, those two normalised, and its output."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(dim, dim)
        self.to_k = Linear(dim, dim)
        self.to_v = Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps=eps)
        self.norm_k = RMSNorm(dim, eps=eps)
        self.to_out = Linear(dim, dim)

    def project_q(self, x: Tensor) -> Tensor:
        """Return queries [..., tokens, heads, d] of tokens x [..., tokens, dim]."""
        return split_heads(self.norm_q(self.to_q(x)), self.heads)

    def project_kv(self, x: Tensor) -> KeysValues:
        """Return keys and values [..., tokens, heads, d] of tokens x [..., tokens, dim]."""
        return split_heads(self.norm_k(self.to_k(x)), self.heads), split_heads(self.to_v(x), self.heads)


class CrossAttention(Projections):
    """Attention to the prompt: no positions, no mask (the zero rows behind a prompt are attended to)."""

    def keys_values(self, text: Tensor) -> KeysValues:
        """Return keys and values [batch, heads, text tokens, d] of projected text [batch, text tokens, dim]."""
        k, v = self.project_kv(text)
        return k.transpose(1, 2), v.transpose(1, 2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Map [..., heads * d] to [..., heads, d]."""
    return x.unflatten(-1, (heads, -1))
