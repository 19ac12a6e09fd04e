"""Self-attention whose keys are cached as they are before their rotation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worldplay_env.models.wan.attention import KeysValues, Projections, Rows, by_row
from worldplay_env.models.wan.rotary import apply_rope


class Positions(NamedTuple):
    """Where the tokens of a call are. Tokens come in groups of equal size, M in all of the batch.

    Attributes:
        cos: float32 [M, tokens of a group, head_dim / 2] cosines of RoPE's angles.
        sin: The sines.
        seen: bool [batch, 1, 1, keys], which tokens of the cache and of the call are attended to. None: all.
    """

    cos: Tensor
    sin: Tensor
    seen: Tensor | None = None


class SelfAttention(Projections):
    """Rotary self-attention. Tokens are [M, n, dim]; positions are those of the M groups."""

    def queries(self, x: Tensor, positions: Positions) -> Tensor:
        """Return rotated queries [M, n, heads, d]."""
        return apply_rope(self.project_q(x), positions.cos, positions.sin)

    def keys_values(self, x: Tensor, positions: Positions) -> KeysValues:
        """Return keys, not rotated, and values, [M, n, heads, d] each; the cache rotates the keys."""
        return self.project_kv(x)

    def outputs(self, out: Tensor, positions: Positions) -> Tensor:
        """Map what was attended to, [M, n, heads, d], to an update of the tokens [M, n, dim]."""
        return self.to_out(out.flatten(2))


class CallCache(NamedTuple):
    """One layer's cache during a call: rotates the call's keys, and keeps a copy of them as they were.

    Attributes:
        rows: Rotated keys and values of what the call sees, and of the call itself behind it.
        positions: Those of the call.
        kept: Where the call's own keys and values are put, [batch, heads, tokens, d] each, keys not rotated. None: a
            later call over the same frames overwrites them.
    """

    rows: Rows
    positions: Positions
    kept: list[KeysValues] | None = None

    def extend(self, k: Tensor, v: Tensor) -> KeysValues:
        """Put a call's keys and values [M, n, heads, d] behind what it sees; return all of them."""
        if self.kept is not None:
            batch = len(self.rows.keys)
            self.kept.append((by_row(k, batch).contiguous(), by_row(v, batch).contiguous()))
        return self.rows.extend(apply_rope(k, self.positions.cos, self.positions.sin), v)


def rotated(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate cached keys [heads, tokens, d] by angles float32 [tokens, d / 2]."""
    return torch.movedim(apply_rope(torch.movedim(keys, 0, 1), cos, sin), 1, 0)
