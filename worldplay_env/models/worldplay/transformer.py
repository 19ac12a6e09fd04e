"""The diffusion transformer: conditioning, blocks and head; a prefill over memory and the forward of a chunk.

Spec section 6. A Wan 2.2 backbone, conditioned on one timestep and one action label a latent frame, whose
self-attention sees each frame's camera. Tokens are kept as [batch, frames, tokens, dim], so that what is said once a
frame (modulation) broadcasts over its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldplay_env.models.config import TransformerConfig
from worldplay_env.models.worldplay import positional
from worldplay_env.models.worldplay.attention import Cache, CrossAttention, KeysValues, KeyValueCache, SelfAttention
from worldplay_env.models.worldplay.positional import Positions


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Return cosines, then sines, of values [...] at dim / 2 frequencies: float32 [..., dim]."""
    half = dim // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[..., None] * torch.exp(exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Embedder(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, in_dim: int, dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.activation = activation
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_dim] to [..., dim]."""
        return self.linear_2(self.activation(self.linear_1(x)))


class FeedForward(nn.Module):
    """Linear, GELU (tanh approximation), Linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, hidden_dim)
        self.linear_2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., dim]."""
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalise the channels of x [b, f, n, dim], then scale and shift them by frame [b, f, 1, dim], in float32."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).type_as(x)


def gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """Add an update [b, f, n, dim] to the residual stream, gated by frame [b, f, 1, dim], in float32."""
    return (x.float() + update * gate).type_as(x)


class Block(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward; the first and the last modulated by frame."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, heads, eps = config.dim, config.num_attention_heads, config.eps
        self.eps = eps
        self.self_attention = SelfAttention(dim, heads, eps)
        self.cross_attention_norm = nn.LayerNorm(dim, eps=eps)
        self.cross_attention = CrossAttention(dim, heads, eps)
        self.feed_forward = FeedForward(dim, config.ffn_dim)
        self.modulation_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def modulation(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale and gate of both triples, float32 [b, f, 1, dim] each, of modulation [b, f, 6, dim]."""
        table = self.modulation_table.float() + modulation.float()
        return table[..., None, :].unbind(2)

    def forward(
        self, x: Tensor, modulation: Tensor, positions: Positions, text: KeysValues, cache: Cache, layer: int
    ) -> Tensor:
        """Transform tokens x [b, f, n, dim]; their keys and values go into the cache."""
        shift, scale, gate, feed_shift, feed_scale, feed_gate = self.modulation(modulation)
        tokens = modulate(x, shift, scale, self.eps).flatten(1, 2)  # [b, f * n, dim]
        x = gated(x, self.self_attention(tokens, positions, cache, layer).view(x.shape), gate)
        x = x + self.cross_attention(self.cross_attention_norm(x).flatten(1, 2), text).view(x.shape)
        return gated(x, self.feed_forward(modulate(x, feed_shift, feed_scale, self.eps)), feed_gate)

    def prefill_last(self, x: Tensor, modulation: Tensor, positions: Positions, cache: Cache, layer: int) -> None:
        """Put the keys and values of x [b, f, n, dim] into the cache: all that a prefill needs of its last block."""
        shift, scale, *_ = self.modulation(modulation)
        tokens = modulate(x, shift, scale, self.eps).flatten(1, 2)
        cache.extend(layer, *self.self_attention.keys_values(tokens, positions))


class Transformer(nn.Module):
    """The velocity field of the world model: flow-matching velocities of a chunk, given memory, cameras and prompt.

    Args:
        config: Sizes. The compute dtype is that of the parameters.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=patch, stride=patch)
        self.time_embedder = Embedder(config.freq_dim, dim, nn.SiLU())
        self.action_embedder = Embedder(config.freq_dim, dim, nn.SiLU())
        self.text_embedder = Embedder(config.text_dim, dim, nn.GELU(approximate="tanh"))
        self.modulation_projection = nn.Linear(dim, 6 * dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.modulation_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.output_projection = nn.Linear(dim, config.out_channels * math.prod(patch))

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return self.patch_embedding.weight.device

    def new_cache(self, batch: int, rows: int) -> KeyValueCache:
        """Allocate a cache for `batch` worlds with room for `rows` tokens of memory and chunk together."""
        config = self.config
        shape = (batch, config.num_attention_heads, rows, config.attention_head_dim)
        return KeyValueCache(config.num_layers, shape, self.device, self.dtype)

    def text_keys_values(self, prompt_embedding: Tensor) -> list[KeysValues]:
        """Return every block's keys and values of a prompt [batch, text tokens, text_dim]: made once a prompt."""
        text = self.text_embedder(prompt_embedding.to(self.dtype))
        return [block.cross_attention.keys_values(text) for block in self.layers()]

    def positions(
        self,
        frames: range,
        latent_size: tuple[int, int],
        viewmats: Tensor,
        K: Tensor | None,
        seen: Tensor | None = None,
    ) -> Positions:
        """Make the position tables of a call: once a chunk for its memory, once for the chunk itself.

        Args:
            frames: RoPE's time positions: 0..k-1 for k memory frames, k..k+3 for the chunk behind them.
            latent_size: Rows and columns of a latent frame.
            viewmats: [batch, len(frames), 4, 4] world-to-camera matrices, re-based by the caller.
            K: [batch, len(frames), 3, 3] normalised intrinsics, or None.
            seen: bool [batch, frames of memory and call], which are attended to, at least one a row. None: all.
        """
        _, rows, columns = self.config.patch_size
        grid = latent_size[0] // rows, latent_size[1] // columns
        cos, sin = positional.rope_table(frames, *grid, self.config.attention_head_dim, self.device)
        if seen is not None:
            seen = seen.repeat_interleave(math.prod(grid), dim=1)[:, None, None]  # [batch, 1, 1, keys]
        return Positions(cos, sin, *positional.projections(viewmats, K), seen)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        labels: Tensor,
        positions: Positions,
        text: list[KeysValues],
        cache: Cache,
    ) -> Tensor:
        """Return the velocity of a chunk's noisy latents, given the memory that `cache` holds.

        Args:
            latents: [batch, channels, frames, rows, columns].
            timesteps: float32 [batch, frames], 0..1000; a latent frame has its own.
            labels: [batch, frames] action labels 0..80.
            positions: What `positions` returned for these frames.
            text: What `text_keys_values` returned for the prompts.
            cache: The memory's keys and values; the chunk's rows are written behind them, and overwritten by the next
                call.

        Returns:
            The velocity in the shape of `latents` (with `out_channels` channels) and the compute dtype.
        """
        x = self.embed_patches(latents)
        embedding = self.embed_frames(timesteps, labels)
        modulation = self.modulation(embedding)
        for layer, block in enumerate(self.layers()):
            x = block(x, modulation, positions, text[layer], cache, layer)
        shift, scale = (self.modulation_table.float() + embedding.float()[:, :, None])[..., None, :].unbind(2)
        patches = self.output_projection(modulate(x, shift, scale, self.config.eps))
        _, rows, columns = self.config.patch_size
        return rearrange(
            patches,
            "b f (y x) (py px c) -> b c f (y py) (x px)",
            y=latents.shape[3] // rows,
            py=rows,
            px=columns,
        )

    def prefill(
        self,
        latents: Tensor,
        timesteps: Tensor,
        labels: Tensor,
        positions: Positions,
        text: list[KeysValues],
        cache: Cache,
    ) -> None:
        """Fill the cache with the keys and values of memory frames, in place of what it held.

        The memory attends to itself alone, through all blocks; the last one stops at its keys and values. Arguments
        are those of `forward`.
        """
        cache.clear()
        x = self.embed_patches(latents)
        modulation = self.modulation(self.embed_frames(timesteps, labels))
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.layers()):
            if layer < last:
                x = block(x, modulation, positions, text[layer], cache, layer)
            else:
                block.prefill_last(x, modulation, positions, cache, layer)
        cache.keep()

    def layers(self) -> Iterable[Block]:
        """Return the blocks, in the order in which tokens pass them."""
        return cast(Iterable[Block], self.blocks)

    def embed_patches(self, latents: Tensor) -> Tensor:
        """Map latents [b, c, f, h, w] to tokens [b, f, n, dim]; the convolution is one product."""
        _, rows, columns = self.config.patch_size
        patches = rearrange(latents.to(self.dtype), "b c f (y py) (x px) -> b f (y x) (c py px)", py=rows, px=columns)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def embed_frames(self, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Return one vector a latent frame, of its timestep and its action label: [b, f, dim]."""
        frequencies = self.config.freq_dim
        time = self.time_embedder(sinusoid(timesteps, frequencies).to(self.dtype))
        return time + self.action_embedder(sinusoid(labels, frequencies).to(self.dtype))

    def modulation(self, embedding: Tensor) -> Tensor:
        """Return shift, scale and gate of attention and feed-forward, before each block's table: [b, f, 6, dim]."""
        return self.modulation_projection(F.silu(embedding)).unflatten(-1, (6, -1))
