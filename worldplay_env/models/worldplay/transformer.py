"""The diffusion transformer: conditioning, blocks and head; a prefill over memory and the forward of a chunk.

Spec section 6. A Wan 2.2 backbone, conditioned on one timestep and one action label a latent frame, whose
self-attention sees each frame's camera. Between patches and head, tokens are [M, tokens, dim] of M = batch x frames
latent frames, so that what is said once a frame (modulation, positions) broadcasts over its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldplay_env.models.config import TransformerConfig
from worldplay_env.models.wan.attention import KeysValues, LayerCache
from worldplay_env.models.wan.backbone import Backbone
from worldplay_env.models.wan.block import Block, Execution
from worldplay_env.models.wan.layers import Embedder, Linear, sinusoid
from worldplay_env.models.wan.rotary import RopeTables
from worldplay_env.models.worldplay import positional
from worldplay_env.models.worldplay.attention import BRANCHES, SelfAttention
from worldplay_env.models.worldplay.positional import Positions


class Transformer(Backbone):
    """The velocity field of the world model: flow-matching velocities of a chunk, given memory, cameras and prompt.

    Args:
        config: Sizes.
    """

    branches = BRANCHES

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_tables = RopeTables(config.attention_head_dim)
        dim, heads, patch = config.dim, config.num_attention_heads, config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=patch, stride=patch)
        self.time_embedder = Embedder(config.freq_dim, dim, nn.SiLU())
        self.action_embedder = Embedder(config.freq_dim, dim, nn.SiLU())
        self.text_embedder = Embedder(config.text_dim, dim, nn.GELU(approximate="tanh"))
        self.modulation_projection = Linear(dim, 6 * dim)
        self.blocks = nn.ModuleList(
            Block(config, SelfAttention(dim, heads, config.eps)) for _ in range(config.num_layers)
        )
        self.modulation_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.output_projection = Linear(dim, config.out_channels * math.prod(patch))

    def positions(
        self,
        frames: range,
        latent_size: tuple[int, int],
        viewmats: Tensor,
        K: Tensor | None,
        seen: Tensor | None = None,
        *,
        rigid: bool = False,
    ) -> Positions:
        """Make the position tables of a call: once a chunk for its memory, once for the chunk itself.

        Args:
            frames: RoPE's time positions: 0..k-1 for k memory frames, k..k+3 for the chunk behind them.
            latent_size: Rows and columns of a latent frame.
            viewmats: [batch, len(frames), 4, 4] world-to-camera matrices, re-based by the caller.
            K: [batch, len(frames), 3, 3] normalised intrinsics, or None.
            seen: bool [batch, frames of memory and call], which are attended to, at least one a row. None: all.
            rigid: See `positional.projections`.
        """
        grid = self.grid(latent_size)
        cos, sin = (table.repeat(len(viewmats), 1, 1) for table in self.rope_tables(frames, *grid, viewmats.device))
        projection, inverse = positional.projections(viewmats, K, rigid=rigid)
        if seen is not None:
            seen = seen.repeat_interleave(math.prod(grid), dim=1)[:, None, None]  # [batch, 1, 1, keys]
        return Positions(cos, sin, projection.flatten(0, 1).contiguous(), inverse.flatten(0, 1).contiguous(), seen)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        labels: Tensor,
        positions: Positions,
        text: Sequence[KeysValues],
        cache: Sequence[LayerCache],
        *,
        execution: Execution | None = None,
        hidden: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the velocity of a chunk's noisy latents, given the memory that `cache` holds.

        Args:
            latents: [batch, channels, frames, rows, columns].
            timesteps: float32 [batch, frames], 0..1000; a latent frame has its own.
            labels: [batch, frames] action labels 0..80.
            positions: What `positions` returned for these frames.
            text: What `text_keys_values` returned for the prompts, one each or one for several rows of the batch.
            cache: Every layer's memory; the chunk's keys and values are put behind it.
            execution: How the blocks are executed; by default as `self.execution` says.
            hidden: Where the tokens [batch x frames, tokens, dim] behind each block are added.

        Returns:
            The velocity in the shape of `latents` (with `out_channels` channels) and the blocks' dtype.
        """
        run = execution or self.execution
        embedding = self.embed_frames(timesteps, labels)
        modulation = self.modulation(embedding)
        x = self.embed_patches(latents).to(run.dtype or self.dtype)
        for block, prompt, layer in zip(self.layers(), text, cache, strict=True):
            x = block(x, modulation, positions, prompt, layer, run)
            if hidden is not None:
                hidden.append(x)
        return self.head(x, embedding, latents.shape)

    def prefill(
        self,
        latents: Tensor,
        timesteps: Tensor,
        labels: Tensor,
        positions: Positions,
        text: Sequence[KeysValues],
        cache: Sequence[LayerCache],
        *,
        execution: Execution | None = None,
        hidden: list[Tensor] | None = None,
    ) -> None:
        """Fill the cache with the keys and values of memory frames.

        The memory attends to itself alone, through all blocks; the last one stops at its keys and values. Arguments
        are those of `forward`.
        """
        run = execution or self.execution
        modulation = self.modulation(self.embed_frames(timesteps, labels))
        x = self.embed_patches(latents).to(run.dtype or self.dtype)
        *blocks, last = self.layers()
        for block, prompt, layer in zip(blocks, text, cache, strict=False):
            x = block(x, modulation, positions, prompt, layer, run)
            if hidden is not None:
                hidden.append(x)
        last.prefill_last(x, modulation, positions, cache[-1], run)

    def embed_frames(self, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Return one vector a latent frame, of its timestep and its action label: [b, f, dim]."""
        frequencies = self.config.freq_dim
        time = self.time_embedder(sinusoid(timesteps, frequencies).to(self.dtype))
        return time + self.action_embedder(sinusoid(labels, frequencies).to(self.dtype))
