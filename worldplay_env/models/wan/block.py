"""The block of Wan 2.2 transformers, and how it is executed.

A block is cut at its two attentions into parts that work on each latent frame by itself. So batch and frames are
merged to one axis, of M = batch x frames latent frames, and the parts see the same shapes whatever the length of the
memory that is attended to: a compiler meets few of them. The models differ in their self-attention, which a block is
given; parts and attentions are chosen by an `Execution`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worldplay_env.models.config import TransformerConfig
from worldplay_env.models.wan.attention import (
    Attend,
    CrossAttention,
    KeysValues,
    LayerCache,
    attend,
    by_frame,
    by_row,
)
from worldplay_env.models.wan.layers import FeedForward, LayerNorm, gated, modulate


class Positions(Protocol):
    """Where the tokens of a call are; what else it holds is for the model's self-attention to know."""

    @property
    def seen(self) -> Tensor | None:
        """Bool [batch, 1, 1, keys], which tokens of the memory and of the call are attended to. None: all."""


class SelfAttention(Protocol):
    """What a block asks of a model's self-attention, on either side of the attention itself."""

    def queries(self, x: Tensor, positions: Any) -> Tensor:
        """Return queries [M, n, heads, d] of tokens x [M, n, dim]."""

    def keys_values(self, x: Tensor, positions: Any) -> KeysValues:
        """Return keys and values, [M, n, heads, d] each."""

    def outputs(self, out: Tensor, positions: Any) -> Tensor:
        """Map what the attention returned, [M, n, heads, d], to an update of the tokens [M, n, dim]."""


class Block(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward; the first and the last modulated by frame.

    Args:
        config: Sizes.
        self_attention: The model's own: a module that is a `SelfAttention`.
    """

    def __init__(self, config: TransformerConfig, self_attention: Any) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.eps = eps
        self.self_attention = self_attention
        self.cross_attention_norm = LayerNorm(dim, eps=eps)
        self.cross_attention = CrossAttention(dim, config.num_attention_heads, eps)
        self.feed_forward = FeedForward(dim, config.ffn_dim)
        self.modulation_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        positions: Positions,
        text: KeysValues,
        cache: LayerCache,
        execution: Execution | None = None,
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: [M, n, dim], M = batch x frames.
            modulation: [M, 6, dim]: shift, scale and gate of self-attention and feed-forward.
            positions: Those of the M frames.
            text: The prompts' keys and values in this block. Their batch divides M.
            cache: The memory's in this block; the tokens' own are put behind them.
            execution: How the parts are computed; by default as they are.

        Returns:
            [M, n, dim].
        """
        run = execution or EAGER
        frames = len(x)
        q, *own = run.before_attention(self, x, modulation, positions)
        keys, values = cache.extend(*own)
        out = run.attend(by_row(q, len(keys)), keys, values, positions.seen)
        x, q = run.after_attention(self, x, modulation, positions, by_frame(out, frames))
        out = run.attend(by_row(q, len(text[0])), *text)
        return run.after_text(self, x, modulation, by_frame(out, frames))

    def prefill_last(
        self,
        x: Tensor,
        modulation: Tensor,
        positions: Positions,
        cache: LayerCache,
        execution: Execution | None = None,
    ) -> None:
        """Put the keys and values of x [M, n, dim] into the cache: all that a prefill needs of its last block."""
        cache.extend(*(execution or EAGER).keys_values(self, x, modulation, positions))

    # ---- the parts

    def before_attention(self, x: Tensor, modulation: Tensor, positions: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the self-attention's queries, keys and values, [M, n, heads, d] each."""
        tokens = self._modulated(x, modulation)
        return self.self_attention.queries(tokens, positions), *self.self_attention.keys_values(tokens, positions)

    def keys_values(self, x: Tensor, modulation: Tensor, positions: Any) -> KeysValues:
        """Return the self-attention's keys and values alone, [M, n, heads, d] each."""
        return self.self_attention.keys_values(self._modulated(x, modulation), positions)

    def after_attention(self, x: Tensor, modulation: Tensor, positions: Any, out: Tensor) -> tuple[Tensor, Tensor]:
        """Add the self-attention `out` [M, n, heads, d]; return tokens and their queries to the text."""
        gate = self._modulation(modulation)[2]
        x = gated(x, self.self_attention.outputs(out, positions), gate)
        return x, self.cross_attention.project_q(self.cross_attention_norm(x))

    def after_text(self, x: Tensor, modulation: Tensor, out: Tensor) -> Tensor:
        """Add the cross-attention `out` [M, n, heads, d] and the feed-forward."""
        *_, shift, scale, gate = self._modulation(modulation)
        x = x + self.cross_attention.to_out(out.flatten(2))
        return gated(x, self.feed_forward(modulate(x, shift, scale, self.eps)), gate)

    def _modulated(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, *_ = self._modulation(modulation)
        return modulate(x, shift, scale, self.eps)

    def _modulation(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale and gate of both triples, float32 [M, 1, dim] each."""
        table = self.modulation_table.float() + modulation.float()
        return table[:, :, None].unbind(1)


@dataclass(frozen=True)
class Execution:
    """How blocks are executed: in which dtype, and by which functions.

    Attributes:
        before_attention: Computes what `Block.before_attention` does, of a block and its arguments. So do the others.
        keys_values: Likewise.
        after_attention: Likewise.
        after_text: Likewise.
        attend: Computes both attentions.
        dtype: The dtype of the tokens. None: that of the parameters.
    """

    before_attention: Callable[..., tuple[Tensor, Tensor, Tensor]] = Block.before_attention
    keys_values: Callable[..., KeysValues] = Block.keys_values
    after_attention: Callable[..., tuple[Tensor, Tensor]] = Block.after_attention
    after_text: Callable[..., Tensor] = Block.after_text
    attend: Attend = attend
    dtype: torch.dtype | None = None


EAGER = Execution()
"""Part by part, as they are."""


class BlockNetwork(nn.Module):
    """A network of blocks.

    Attributes:
        execution: How they are executed where a call does not say.
    """

    def __init__(self) -> None:
        super().__init__()
        self.execution = EAGER
