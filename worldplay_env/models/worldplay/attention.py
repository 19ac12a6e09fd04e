"""Attention: the dual-branch self-attention over memory and chunk, and the cross-attention to the prompt.

Spec section 6. Both branches of the self-attention share queries, keys and values before their positions are applied;
they run side by side as one attention over twice the heads: RoPE's first, then PRoPE's.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldplay_env.models.worldplay import positional
from worldplay_env.models.worldplay.positional import Positions

BRANCHES = 2

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one block, in the layout that the attention reads."""


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attend: softmax(q k^T / sqrt(head_dim)) v.

    Args:
        q: [batch, heads, queries, head_dim].
        k: [batch, heads, keys, head_dim].
        v: [batch, heads, keys, head_dim].
        seen: bool [batch, 1, 1, keys], at least one a row: the keys that are attended to. None: all.

    Returns:
        [batch, heads, queries, head_dim].
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class Cache(Protocol):
    """Where the self-attentions of one chunk put their keys and values: the memory's, then the chunk's own.

    Rows are [batch, 2 branches, heads, tokens, head_dim].
    """

    def clear(self) -> None:
        """Forget the memory."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Put one block's rows behind its memory and return memory and rows together."""

    def keep(self) -> None:
        """Make the rows of the latest call the memory."""


class KeyValueCache:
    """A cache of fixed buffers, written in place: their addresses stay the same from chunk to chunk.

    Args:
        layers: Blocks of the transformer.
        shape: Batch, heads, rows (tokens of memory and chunk together) and head_dim.
        device: Where the buffers are.
        dtype: The compute dtype.
    """

    def __init__(
        self, layers: int, shape: tuple[int, int, int, int], device: torch.device | None, dtype: torch.dtype
    ) -> None:
        batch, heads, rows, head_dim = shape
        self._buffers = [
            torch.empty(2, batch, BRANCHES, heads, rows, head_dim, device=device, dtype=dtype) for _ in range(layers)
        ]
        self.clear()

    @property
    def batch(self) -> int:
        """Worlds that the buffers have room for."""
        return self._buffers[0].shape[1]

    def narrow(self, batch: int) -> KeyValueCache:
        """Return an empty cache in the buffers of the first `batch` worlds."""
        cache = object.__new__(KeyValueCache)
        cache._buffers = [buffer[:, :batch] for buffer in self._buffers]
        cache.clear()
        return cache

    def clear(self) -> None:
        """Forget the memory."""
        self._length = self._end = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Write one block's rows behind its memory; return views of memory and rows together."""
        self._end = self._length + k.shape[-2]
        keys, values = self._buffers[layer]
        keys[..., self._length : self._end, :] = k
        values[..., self._length : self._end, :] = v
        return keys[..., : self._end, :], values[..., : self._end, :]

    def keep(self) -> None:
        """Make the rows of the latest call the memory."""
        self._length = self._end

    def memory(self, layer: int) -> KeysValues:
        """Return views of one block's memory, [batch, 2, heads, rows, head_dim]."""
        keys, values = self._buffers[layer]
        return keys[..., : self._length, :], values[..., : self._length, :]


class DifferentiableCache:
    """A cache that concatenates instead of writing in place, to train through a prefill."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the memory."""
        self._memory: dict[int, KeysValues] = {}
        self._latest: dict[int, KeysValues] = {}

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Return one block's memory with rows behind it, as new tensors."""
        if layer in self._memory:
            keys, values = self._memory[layer]
            k, v = torch.cat([keys, k], dim=-2), torch.cat([values, v], dim=-2)
        self._latest[layer] = (k, v)
        return k, v

    def keep(self) -> None:
        """Make the rows of the latest call the memory."""
        self._memory, self._latest = self._latest, {}


class SelfAttention(nn.Module):
    """Dual-branch self-attention: one q, k, v; two attentions; two output projections that are added."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)
        self.to_out = nn.Linear(dim, dim)
        self.to_out_prope = nn.Linear(dim, dim)

    def keys_values(self, x: Tensor, positions: Positions) -> KeysValues:
        """Return both branches' keys and values of tokens x [batch, tokens, dim]: [batch, 2, heads, tokens, d]."""
        k = self.norm_k(self.to_k(x)).unflatten(-1, (self.heads, -1))  # [b, n, h, d]
        v = self.to_v(x).unflatten(-1, (self.heads, -1))
        keys = positional.apply_rope(k, positions.cos, positions.sin), positional.prope_keys_values(k, positions)
        values = v, positional.prope_keys_values(v, positions)
        return _branches(*keys), _branches(*values)

    def forward(self, x: Tensor, positions: Positions, cache: Cache, layer: int) -> Tensor:
        """Attend from tokens x [batch, tokens, dim] to the cache's memory and to themselves."""
        q = self.norm_q(self.to_q(x)).unflatten(-1, (self.heads, -1))  # [b, n, h, d]
        q = _branches(positional.apply_rope(q, positions.cos, positions.sin), positional.prope_queries(q, positions))
        k, v = cache.extend(layer, *self.keys_values(x, positions))
        out = attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), positions.seen)  # [b, 2h, n, d]
        rope, prope = rearrange(out, "b (branch h) n d -> branch b n h d", branch=BRANCHES)
        prope = positional.prope_outputs(prope, positions)
        return self.to_out(rope.flatten(2)) + self.to_out_prope(prope.flatten(2))


def _branches(rope: Tensor, prope: Tensor) -> Tensor:
    """Lay two branches [b, n, h, d] side by side for the attention: [b, 2, h, n, d]."""
    return torch.stack((rope, prope), dim=1).transpose(2, 3)


class CrossAttention(nn.Module):
    """Attention to the prompt: no positions, no mask (the zero rows behind a prompt are attended to)."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)
        self.to_out = nn.Linear(dim, dim)

    def keys_values(self, text: Tensor) -> KeysValues:
        """Return keys and values [batch, heads, text tokens, d] of projected text [batch, text tokens, dim]."""
        k, v = self.norm_k(self.to_k(text)), self.to_v(text)
        return _split_heads(k, self.heads), _split_heads(v, self.heads)

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        """Attend from tokens x [batch, tokens, dim] to a prompt's keys and values."""
        q = _split_heads(self.norm_q(self.to_q(x)), self.heads)
        return self.to_out(rearrange(attend(q, *text), "b h n d -> b n (h d)"))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "b n (h d) -> b h n d", h=heads)
