"""What Wan 2.2 transformers share beside their blocks: patches, prompt, modulation and head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldplay_env.models.config import TransformerConfig
from worldplay_env.models.wan.attention import KeysValues, KeyValueCache
from worldplay_env.models.wan.block import Block, BlockNetwork, Execution
from worldplay_env.models.wan.layers import Embedder, Linear, modulate


class Backbone(BlockNetwork):
    """A transformer over the patches of latent frames, conditioned by frame. A model makes the layers named here.

    Attributes:
        config: Sizes.
        patch_embedding: Latents to tokens.
        text_embedder: Prompt embeddings to the blocks' width.
        modulation_projection: What a frame is conditioned on, to six shifts, scales and gates.
        modulation_table: [1, 2, dim], shift and scale of the head.
        output_projection: Tokens to patches of velocities.
        branches: Attentions that the self-attention runs side by side, each with all heads.
    """

    branches: ClassVar[int] = 1

    config: TransformerConfig
    patch_embedding: nn.Conv3d
    text_embedder: Embedder
    modulation_projection: Linear
    modulation_table: nn.Parameter
    output_projection: Linear

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype, in which all but the blocks computes."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return self.patch_embedding.weight.device

    def layers(self) -> Iterable[Block]:
        """Return the blocks, in the order in which tokens pass them."""
        return cast(Iterable[Block], self.blocks)

    def grid(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of tokens of a latent frame of `latent_size` = (rows, columns)."""
        _, rows, columns = self.config.patch_size
        return latent_size[0] // rows, latent_size[1] // columns

    def new_cache(self, batch: int, rows: int) -> KeyValueCache:
        """Allocate a cache for `batch` worlds with room for `rows` tokens: those seen and those of a call."""
        config = self.config
        shape = (batch, self.branches * config.num_attention_heads, rows, config.attention_head_dim)
        return KeyValueCache(config.num_layers, shape, self.device, self.dtype)

    def text_keys_values(self, prompt_embedding: Tensor, execution: Execution | None = None) -> list[KeysValues]:
        """Return every block's keys and values of a prompt [batch, text tokens, text_dim]: made once a prompt."""
        text = self.text_embedder(prompt_embedding.to(self.dtype))
        text = text.to((execution or self.execution).dtype or self.dtype)
        return [block.cross_attention.keys_values(text) for block in self.layers()]

    def embed_patches(self, latents: Tensor) -> Tensor:
        """Map latents [b, c, f, h, w] to tokens [b f, n, dim]; the convolution is one product."""
        _, rows, columns = self.config.patch_size
        patches = rearrange(
            latents.to(self.dtype), "b c f (y py) (x px) -> (b f) (y x) (c py px)", py=rows, px=columns
        )
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def modulation(self, embedding: Tensor) -> Tensor:
        """Return shift, scale and gate of attention and feed-forward, before each block's table: [b f, 6, dim].

        Args:
            embedding: [b, f, dim], what each latent frame is conditioned on.
        """
        return self.modulation_projection(F.silu(embedding)).unflatten(-1, (6, -1)).flatten(0, 1)

    def head(self, x: Tensor, embedding: Tensor, shape: Sequence[int]) -> Tensor:
        """Map tokens [b f, n, dim] behind the last block to velocities.

        Args:
            x: The tokens.
            embedding: [b, f, dim], what each latent frame is conditioned on.
            shape: That of the latents, [b, c, f, h, w].

        Returns:
            [b, out_channels, f, h, w].
        """
        table = self.modulation_table.float() + embedding.float().flatten(0, 1)[:, None]  # [b f, 2, dim]
        shift, scale = table[:, :, None].unbind(1)
        patches = self.output_projection(modulate(x, shift, scale, self.config.eps))
        _, rows, columns = self.config.patch_size
        return rearrange(
            patches,
            "(b f) (y x) (py px c) -> b c f (y py) (x px)",
            b=shape[0],
            y=shape[3] // rows,
            py=rows,
            px=columns,
        )
