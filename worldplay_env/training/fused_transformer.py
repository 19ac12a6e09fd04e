"""The transformer for training: cut at its attentions into pieces that are fused once and serve every memory length.

Everything in a block but its two attentions works on each latent frame by itself. So batch and frames are merged to
one axis, and where a batch is chosen so that batch x frames stays the same, `torch.compile` meets one static shape,
whatever the length of memory. One prefill serves several noise draws of its chunk. The mathematics is that of
`model.transformer`; parameters are its own, kept in float32, and used in the compute dtype.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.models.wan.attention import KeysValues, attend
from worldplay_env.models.wan.block import Block
from worldplay_env.models.wan.layers import gated, modulate
from worldplay_env.models.wan.rotary import rope_table
from worldplay_env.models.worldplay.transformer import Transformer


@dataclass(frozen=True)
class _Frames:
    """What the pieces need of M = batch x frames latent frames.

    Attributes:
        modulation: float32 [M, 6, dim].
        cos: float32 [M, n, 1, head_dim / 2]; RoPE.
        sin: The same.
        projection: float32 [M, 4, 4]; PRoPE's P.
        inverse: Its inverse.
    """

    modulation: Tensor
    cos: Tensor
    sin: Tensor
    projection: Tensor
    inverse: Tensor


class FusedTransformer:
    """Prefill and forward of a transformer that is in training.

    Args:
        transformer: Whose parameters, in float32, are used and trained.
        dtype: The compute dtype.
        compiled: Numbers of latent frames (batch x frames) for which the pieces are compiled; others run as they are.
        attention: Attends from queries to keys and values [b, tokens, 2 heads, d].
    """

    def __init__(
        self,
        transformer: Transformer,
        dtype: torch.dtype,
        compiled: Collection[int] = (),
        attention: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.transformer = transformer
        self._attend = attention or _attend
        self.dtype = dtype
        self._compiled = set(compiled)
        pieces = (_before_attention, _after_attention, _after_text)
        self._fused = {piece: torch.compile(piece, dynamic=False) for piece in pieces} if compiled else {}
        self._tables: dict[tuple[range, int, int, int], tuple[Tensor, Tensor]] = {}
        fx, fy = DEFAULT_INTRINSICS[0][0], DEFAULT_INTRINSICS[1][1]
        self._lift = torch.tensor([fx, fy, 1.0, 1.0], dtype=torch.float32, device=transformer.device)

    def warm_up(self, tokens_per_frame: int) -> None:
        """Compile the pieces, forwards and backwards; where that fails they run as they are."""
        if not self._compiled:
            return
        began = time.monotonic()
        config, device = self.transformer.config, self.transformer.device
        heads, head_dim = config.num_attention_heads, config.attention_head_dim
        block = self._layers()[0]
        try:
            for count in sorted(self._compiled):
                x, modulation, out = (
                    torch.zeros(count, *shape, device=device, dtype=dtype, requires_grad=True)
                    for shape, dtype in (
                        ((tokens_per_frame, config.dim), self.dtype),
                        ((6, config.dim), torch.float32),
                        ((tokens_per_frame, 2 * heads, head_dim), self.dtype),
                    )
                )
                angles = torch.zeros(count, tokens_per_frame, 1, head_dim // 2, device=device)
                camera = torch.eye(4, device=device).repeat(count, 1, 1)
                frames = _Frames(modulation, angles, angles.clone(), camera, camera.clone())
                q, k, v = self._run(_before_attention, block, x, frames)
                y, query = self._run(_after_attention, block, x, frames, out)
                y = self._run(_after_text, block, y, frames, query.flatten(2))
                sum(part.float().sum() for part in (q, k, v, y)).backward()
            print(f"compiled for {sorted(self._compiled)} frames in {time.monotonic() - began:.0f} s", flush=True)
        except Exception as error:  # whatever a compiler can raise
            self._compiled.clear()
            print(f"not compiled, runs unfused: {type(error).__name__}: {str(error)[:300]}", flush=True)
        self.transformer.zero_grad(set_to_none=True)

    def text(self, embeddings: Tensor) -> list[KeysValues]:
        """Return every block's keys and values [b, tokens, heads, d] of prompt embeddings [b, tokens, text_dim]."""
        text = self.transformer.text_embedder(embeddings.float())
        return [self._text(block, text) for block in self._layers()]

    def _text(self, block: Block, text: Tensor) -> KeysValues:
        attention = block.cross_attention
        k, v = attention.norm_k(attention.to_k(text)), attention.to_v(text)
        return _heads(k.to(self.dtype), attention.heads), _heads(v.to(self.dtype), attention.heads)

    def prefill(
        self,
        latents: Tensor,
        timesteps: Tensor,
        labels: Tensor,
        viewmats: Tensor,
        text: list[KeysValues],
        hidden: list[Tensor] | None = None,
    ) -> list[KeysValues]:
        """Return every block's keys and values [b, K n, 2 heads, d] of memory latents [b, C, K, h, w].

        To `hidden` the tokens [b K, n, dim] behind each block but the last are added.
        """
        batch, _, length = latents.shape[:3]
        frames = self._frames(range(length), latents, timesteps, labels, viewmats)
        x = self._tokens(latents)
        kept: list[KeysValues] = []
        for block, prompt in zip(self._layers(), text, strict=True):
            q, k, v = self._run(_before_attention, block, x, frames)
            q, k, v = (part.unflatten(0, (batch, length)).flatten(1, 2) for part in (q, k, v))  # [b, K n, 2h, d]
            kept.append((k, v))
            if len(kept) < len(text):
                x = self._rest(block, x, self._attend(q, k, v), frames, prompt)
                if hidden is not None:
                    hidden.append(x)
        return kept

    def velocity(
        self,
        latents: Tensor,
        timesteps: Tensor,
        labels: Tensor,
        viewmats: Tensor,
        text: list[KeysValues],
        memory: list[KeysValues] | None,
        hidden: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the velocities, float32, of noisy chunks; several draws of one chunk may share its memory.

        Args:
            latents: [b D, C, 4, h, w], D draws of each of b chunks, those of one chunk side by side.
            timesteps: float32 [b D, 4].
            labels: int64 [b, 4].
            viewmats: float32 [b, 4, 4, 4].
            text: What `text` returned for b prompts.
            memory: What `prefill` returned for b memories; None without memory.
            hidden: Where the tokens [b D 4, n, dim] behind each block are added.
        """
        batch, length = len(labels), latents.shape[2]
        draws = len(latents) // batch
        tokens = self._tokens(latents)  # [b D 4, n, dim]
        remembered = 0 if memory is None else memory[0][0].shape[1] // tokens.shape[1]
        frames = self._frames(
            range(remembered, remembered + length),
            latents,
            timesteps,
            labels.repeat_interleave(draws, 0),
            viewmats.repeat_interleave(draws, 0),
        )
        x = tokens
        for layer, (block, prompt) in enumerate(zip(self._layers(), text, strict=True)):
            q, k, v = self._run(_before_attention, block, x, frames)
            q, k, v = (part.unflatten(0, (batch * draws, length)).flatten(1, 2) for part in (q, k, v))
            if memory is not None:
                k, v = (_behind(past, own, draws) for past, own in zip(memory[layer], (k, v), strict=True))
            x = self._rest(block, x, self._attend(q, k, v), frames, prompt)
            if hidden is not None:
                hidden.append(x)
        embedding = self.transformer.embed_frames(timesteps, labels.repeat_interleave(draws, 0))  # [b D, 4, dim]
        shift, scale = (self.transformer.modulation_table + embedding.flatten(0, 1)[:, None])[:, :, None].unbind(1)
        x = _linear(self.transformer.output_projection, modulate(x, shift, scale, self.transformer.config.eps))
        return self._patches_to_latents(x, latents)

    def _patches_to_latents(self, patches: Tensor, like: Tensor) -> Tensor:
        """Map patches [M, n, py px C] to velocities float32 in the shape of latents [b, C, f, h, w]."""
        _, py, px = self.transformer.config.patch_size
        batch, channels, frames, height, width = like.shape
        patches = patches.float().view(batch, frames, height // py, width // px, py, px, channels)
        return patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(like.shape)

    def _rest(self, block: Block, x: Tensor, out: Tensor, frames: _Frames, text: KeysValues) -> Tensor:
        """Finish a block after its self-attention `out` [b, f n, 2 heads, d]."""
        count, tokens = x.shape[:2]
        out = out.reshape(count, tokens, *out.shape[2:]).contiguous()
        x, q = self._run(_after_attention, block, x, frames, out)  # q: [M, n, heads, d]
        batch = len(text[0])
        out = _attend(q.unflatten(0, (batch, -1)).flatten(1, 2), *text)
        return self._run(_after_text, block, x, frames, out.reshape(count, tokens, -1).contiguous())

    def _run(self, piece: Callable[..., Any], block: Block, x: Tensor, frames: _Frames, *more: Tensor) -> Any:
        run = self._fused[piece] if len(x) in self._compiled else piece
        parts = (frames.modulation, frames.cos, frames.sin, frames.projection, frames.inverse)
        return run(block, x, *parts, *more)

    def _tokens(self, latents: Tensor) -> Tensor:
        return self.transformer.embed_patches(latents).to(self.dtype).contiguous()  # [b f, n, dim]

    def _frames(self, where: range, latents: Tensor, timesteps: Tensor, labels: Tensor, viewmats: Tensor) -> _Frames:
        transformer, batch = self.transformer, len(latents)
        cos, sin = self._angles(where, batch, latents.shape[3], latents.shape[4])
        projection, inverse = self._projections(viewmats)
        modulation = transformer.modulation(transformer.embed_frames(timesteps, labels)).contiguous()
        projection, inverse = (matrices.flatten(0, 1).contiguous() for matrices in (projection, inverse))
        return _Frames(modulation, cos, sin, projection, inverse)

    def _projections(self, viewmats: Tensor) -> tuple[Tensor, Tensor]:
        """Return PRoPE's P and its inverse of view matrices [b, f, 4, 4].

        The inverse is that of a rigid motion: a general one is not among what `Recorded` can record.
        """
        rotation, offset, last = viewmats[..., :3, :3], viewmats[..., :3, 3:], viewmats[..., 3:, :]
        poses = torch.cat([torch.cat([rotation.mT, -rotation.mT @ offset], dim=-1), last], dim=-2)
        return self._lift[:, None] * viewmats, poses / self._lift

    def _angles(self, where: range, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return RoPE's cosines and sines, [batch x frames, n, 1, head_dim / 2], made once."""
        key = (where, batch, height, width)
        if key not in self._tables:
            config = self.transformer.config
            _, py, px = config.patch_size
            tables = rope_table(where, height // py, width // px, config.attention_head_dim, self.transformer.device)
            cos, sin = (table.view(len(where), -1, 1, table.shape[-1]).repeat(batch, 1, 1, 1) for table in tables)
            self._tables[key] = cos, sin
        return self._tables[key]

    def _layers(self) -> list[Block]:
        return list(self.transformer.layers())


def _before_attention(
    block: Block, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor, projection: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both branches' queries, keys and values [M, n, 2 heads, d] of tokens x [M, n, dim]."""
    attention = block.self_attention
    shift, scale, *_ = (block.modulation_table + modulation)[:, :, None].unbind(1)  # [M, 1, dim]
    tokens = modulate(x, shift, scale, block.eps)
    q = _heads(_rms(attention.norm_q, _linear(attention.to_q, tokens)), attention.heads)  # float32 [M, n, h, d]
    k = _heads(_rms(attention.norm_k, _linear(attention.to_k, tokens)), attention.heads)
    v = _heads(_linear(attention.to_v, tokens).float(), attention.heads)
    q = torch.cat([_rope(q, cos, sin), _project(q, projection.mT)], dim=2)
    k = torch.cat([_rope(k, cos, sin), _project(k, inverse)], dim=2)
    v = torch.cat([v, _project(v, inverse)], dim=2)
    return q.to(x.dtype), k.to(x.dtype), v.to(x.dtype)


def _after_attention(
    block: Block,
    x: Tensor,
    modulation: Tensor,
    cos: Tensor,
    sin: Tensor,
    projection: Tensor,
    inverse: Tensor,
    out: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add the self-attention `out` [M, n, 2 heads, d]; return tokens and queries to the text [M, n, heads, d]."""
    attention, cross = block.self_attention, block.cross_attention
    gate = (block.modulation_table + modulation)[:, 2, None]
    rope, prope = out.chunk(2, dim=2)
    prope = _project(prope.float(), projection).to(x.dtype)
    x = gated(x, _linear(attention.to_out, rope.flatten(2)) + _linear(attention.to_out_prope, prope.flatten(2)), gate)
    norm = block.cross_attention_norm
    tokens = F.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, norm.eps).to(x.dtype)
    q = _rms(cross.norm_q, _linear(cross.to_q, tokens)).to(x.dtype)
    return x, _heads(q, cross.heads)


def _after_text(
    block: Block,
    x: Tensor,
    modulation: Tensor,
    cos: Tensor,
    sin: Tensor,
    projection: Tensor,
    inverse: Tensor,
    out: Tensor,
) -> Tensor:
    """Add the cross-attention `out` [M, n, dim] and the feed-forward."""
    shift, scale, gate = (block.modulation_table + modulation)[:, 3:, None].unbind(1)
    x = x + _linear(block.cross_attention.to_out, out)
    hidden = _linear(block.feed_forward.linear_1, modulate(x, shift, scale, block.eps))
    return gated(x, _linear(block.feed_forward.linear_2, F.gelu(hidden, approximate="tanh")), gate)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a float32 layer in the dtype of x."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _rms(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    x = x.float()
    assert norm.eps is not None
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1))


def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def _project(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply groups of four channels of x [M, n, h, d] by their frame's matrix [M, 4, 4], as a sum that fuses."""
    groups = x.unflatten(-1, (-1, 4))  # [M, n, h, g, 4]
    columns = matrices[:, None, None, None].unbind(-1)  # four of [M, 1, 1, 1, 4]
    terms = [groups[..., i, None] * columns[i] for i in range(4)]
    return (terms[0] + terms[1] + terms[2] + terms[3]).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in the layout [b, tokens, heads, d]."""
    return attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _behind(memory: Tensor, own: Tensor, draws: int) -> Tensor:
    """Put each draw's own rows [b D, tokens, ...] behind its chunk's memory [b, rows, ...]."""
    batch = len(memory)
    own = own.unflatten(0, (batch, draws))
    return torch.cat([memory[:, None].expand(-1, draws, *memory.shape[1:]), own], dim=2).flatten(0, 1)
