"""The diffusion transformer of ABot-World: a Wan 2.2 backbone that is told held keys and sees reference pictures.

Its tokens are those of a block of latent frames; in a rollout's first block those of the reference slots come before
them. What is said once a frame (modulation) is said once a group of tokens here: a group is a latent frame, or in the
first block as many tokens as divide a latent frame and a slot both. So all blocks see [M, tokens, dim] of M groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from worldplay_env.models.abot.adapter import ActionAdapter
from worldplay_env.models.abot.attention import Positions, SelfAttention
from worldplay_env.models.abot.config import AbotTransformerConfig
from worldplay_env.models.abot.window import reference_times
from worldplay_env.models.wan.attention import KeysValues, LayerCache
from worldplay_env.models.wan.backbone import Backbone
from worldplay_env.models.wan.block import Block, Execution
from worldplay_env.models.wan.layers import Embedder, Linear, sinusoid
from worldplay_env.models.wan.rotary import rope_table


class AbotTransformer(Backbone):
    """The velocity field: flow-matching velocities of a block, given its window, held keys and prompt.

    Args:
        config: Sizes.
    """

    def __init__(self, config: AbotTransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim, heads, patch = config.dim, config.num_attention_heads, config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=patch, stride=patch)
        self.act_control_adapter = ActionAdapter(config.action_channels, config.adapter_downscale, dim, patch[1:])
        self.time_embedder = Embedder(config.freq_dim, dim, nn.SiLU())
        self.text_embedder = Embedder(config.text_dim, dim, nn.GELU(approximate="tanh"))
        self.modulation_projection = Linear(dim, 6 * dim)
        self.blocks = nn.ModuleList(
            Block(config, SelfAttention(dim, heads, config.eps)) for _ in range(config.num_layers)
        )
        self.modulation_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.output_projection = Linear(dim, config.out_channels * math.prod(patch))

    def rotation(self, times: range, latent_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return RoPE's cosines and sines at time positions, float32 [frames, tokens, head_dim / 2]."""
        return rope_table(times, *self.grid(latent_size), self.config.attention_head_dim, self.device)

    def reference_rotation(self, slots: int, latent_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return RoPE's cosines and sines of reference slots, float32 [slots, tokens, head_dim / 2]."""
        return self.rotation(reference_times(slots, math.prod(self.grid(latent_size))), latent_size)

    def positions(
        self,
        times: Sequence[range],
        latent_size: tuple[int, int],
        reference_shape: tuple[int, int, int] | None = None,
        seen: Tensor | None = None,
    ) -> Positions:
        """Make the position tables of a call.

        Args:
            times: Time positions of the latent frames of each world: `frame - base`.
            latent_size: Rows and columns of a latent frame.
            reference_shape: Slots, rows and columns of the references, in a rollout's first block. None: they are in
                the cache, or there are none.
            seen: bool [batch, keys], which rows of the cache and of the call are attended to. None: all.
        """
        tables = [self.rotation(each, latent_size) for each in times]
        if reference_shape is not None:
            before = self.reference_rotation(reference_shape[0], reference_shape[1:])
            size = math.gcd(before[0].shape[1], tables[0][0].shape[1])
            tables = [
                cast(
                    tuple[Tensor, Tensor],
                    tuple(
                        torch.cat([part.flatten(0, 1).unflatten(0, (-1, size)) for part in parts])
                        for parts in zip(before, table, strict=True)
                    ),
                )
                for table in tables
            ]
        cos, sin = (torch.cat([table[part] for table in tables]) for part in range(2))
        return Positions(cos, sin, None if seen is None else seen[:, None, None])

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        added: Tensor,
        positions: Positions,
        text: Sequence[KeysValues],
        cache: Sequence[LayerCache],
        *,
        references: Tensor | None = None,
        execution: Execution | None = None,
        hidden: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the velocity of a block's latents, given the window that `cache` holds.

        Args:
            latents: [batch, channels, frames, rows, columns].
            timesteps: float32 [batch, frames], 0..1000; a latent frame has its own.
            added: [batch, 1 or frames, tokens, dim], what the action adapter makes of the held keys.
            positions: What `positions` returned for the call.
            text: What `text_keys_values` returned for the prompts, one each or one for several rows of the batch.
            cache: Every layer's cache; the call's keys and values are put into it.
            references: [batch, slots, tokens, dim], what `embed_references` returned, in a rollout's first block.
            execution: How the blocks are executed; by default as `self.execution` says.
            hidden: Where the tokens [batch, all tokens, dim] before the first block and behind each are added.

        Returns:
            The velocity in the shape of `latents` (with `out_channels` channels) and the blocks' dtype.
        """
        run = execution or self.execution
        batch, frames = timesteps.shape
        embedding = self.embed_timesteps(timesteps)
        modulation = self.modulation(embedding).unflatten(0, (batch, -1))  # [b, f, 6, dim]
        x = self.embed_patches(latents).unflatten(0, (batch, -1)) + added.to(self.dtype)  # [b, f, n, dim]
        tokens, size = x.shape[2], positions.cos.shape[1]
        modulation = modulation.repeat_interleave(tokens // size, dim=1)
        x = x.flatten(1, 2).unflatten(1, (-1, size))
        if references is not None:
            clean = self.modulation(self.embed_timesteps(timesteps.new_zeros(batch, 1)))[:, None]
            references = references.flatten(1, 2).unflatten(1, (-1, size))
            modulation = torch.cat([clean.expand(-1, references.shape[1], -1, -1), modulation], dim=1)
            x = torch.cat([references, x], dim=1)
        x, modulation = x.flatten(0, 1).to(run.dtype or self.dtype), modulation.flatten(0, 1)
        states = [x]
        for block, prompt, layer in zip(self.layers(), text, cache, strict=True):
            x = block(x, modulation, positions, prompt, layer, run)
            states.append(x)
        if hidden is not None:
            hidden.extend(state.unflatten(0, (batch, -1)).flatten(1, 2) for state in states)
        x = x.unflatten(0, (batch, -1)).flatten(1, 2)[:, -frames * tokens :].unflatten(1, (frames, -1)).flatten(0, 1)
        return self.head(x, embedding, latents.shape)

    def embed_references(self, latents: Tensor, given: Tensor) -> Tensor:
        """Return the tokens of reference slots, [batch, slots, tokens, dim].

        Args:
            latents: [batch, slots, channels, rows, columns].
            given: bool [batch]. The tokens of references that are not given are zero.
        """
        tokens = self.embed_patches(latents.transpose(1, 2)).unflatten(0, (len(latents), -1))
        return tokens * given[:, None, None, None].to(self.dtype)

    def embed_timesteps(self, timesteps: Tensor) -> Tensor:
        """Return one vector a latent frame, [b, f, dim]."""
        return self.time_embedder(sinusoid(timesteps.double(), self.config.freq_dim).to(self.dtype))
