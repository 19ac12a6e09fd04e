"""The dual-branch self-attention (spec section 6).

Both branches share queries, keys and values before their positions are applied; they run side by side as one
attention over twice the heads: RoPE's first, then PRoPE's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldplay_env.models.wan.attention import KeysValues, Projections
from worldplay_env.models.wan.layers import Linear
from worldplay_env.models.wan.rotary import apply_rope
from worldplay_env.models.worldplay import positional
from worldplay_env.models.worldplay.positional import Positions

BRANCHES = 2


class SelfAttention(Projections):
    """Dual-branch self-attention: one q, k, v; two attentions; two output projections that are added.

    Tokens are [M, n, dim], of M = batch x frames latent frames.
    """

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__(dim, heads, eps)
        self.to_out_prope = Linear(dim, dim)

    def queries(self, x: Tensor, positions: Positions) -> Tensor:
        """Return both branches' queries [M, n, 2 heads, d]."""
        q = self.project_q(x)
        rope, prope = apply_rope(q, positions.cos, positions.sin), positional.prope_queries(q, positions)
        return torch.cat((rope, prope), dim=2)

    def keys_values(self, x: Tensor, positions: Positions) -> KeysValues:
        """Return both branches' keys and values, [M, n, 2 heads, d] each."""
        k, v = self.project_kv(x)
        keys = apply_rope(k, positions.cos, positions.sin), positional.prope_keys_values(k, positions)
        values = v, positional.prope_keys_values(v, positions)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def outputs(self, out: Tensor, positions: Positions) -> Tensor:
        """Map both branches' attention [M, n, 2 heads, d] to an update of the tokens [M, n, dim]."""
        rope, prope = out.chunk(BRANCHES, dim=2)
        prope = positional.prope_outputs(prope, positions)
        return self.to_out(rope.flatten(2)) + self.to_out_prope(prope.flatten(2))
