"""The transformer in training: float32 parameters in a lower compute dtype, with parts that a compiler has fused.

Where a batch is chosen so that batch x frames stays the same, the parts of a block are compiled for one shape,
whatever the length of memory. One prefill serves several noise draws of its chunk.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.models.wan.attention import Attend, KeysValues, attend
from worldplay_env.models.wan.block import Execution
from worldplay_env.models.wan.compiled import compiled_execution
from worldplay_env.models.worldplay.attention import BRANCHES
from worldplay_env.models.worldplay.positional import Positions
from worldplay_env.models.worldplay.transformer import Transformer


class _Joined:
    """One layer's memory and the rows behind it as new tensors, so that gradients reach both.

    Args:
        batch: Rows of the call's batch: D draws of each of b chunks.
        memory: Keys and values [b, heads, rows, d] that the draws of a chunk share. None: no memory.
    """

    def __init__(self, batch: int, memory: KeysValues | None = None) -> None:
        self._batch = batch
        self._memory = memory
        self.latest: KeysValues | None = None

    def extend(self, k: Tensor, v: Tensor) -> KeysValues:
        """Return memory and a call's rows together (see `LayerCache`)."""
        past = self._memory or (None, None)
        self.latest = self._behind(past[0], k), self._behind(past[1], v)
        return self.latest

    def _behind(self, memory: Tensor | None, own: Tensor) -> Tensor:
        own = own.unflatten(0, (self._batch, -1)).flatten(1, 2)  # [b D, tokens, heads, d]
        if memory is not None:
            draws = self._batch // len(memory)
            shared = memory.transpose(1, 2)[:, None].expand(-1, draws, -1, -1, -1)
            own = torch.cat([shared, own.unflatten(0, (-1, draws))], dim=2).flatten(0, 1)
        return own.transpose(1, 2)


class FusedTransformer:
    """Prefill and forward of a transformer that is in training.

    Args:
        transformer: Whose parameters, in float32, are used and trained.
        dtype: The compute dtype of the blocks.
        compiled: Numbers of latent frames (batch x frames) for which the blocks are compiled; others run as they are.
        attention: Computes the attentions; by default torch.
    """

    def __init__(
        self,
        transformer: Transformer,
        dtype: torch.dtype,
        compiled: Collection[int] = (),
        attention: Attend = attend,
    ) -> None:
        self.transformer = transformer
        self._plain = Execution(attend=attention, dtype=dtype)
        self._compiled = tuple(sorted(compiled))
        self._execution = compiled_execution(self._plain, compiled) if compiled else self._plain
        self._intrinsics = torch.tensor(DEFAULT_INTRINSICS, dtype=torch.float32, device=transformer.device)

    def warm_up(self, tokens_per_frame: int) -> None:
        """Compile the blocks, forwards and backwards; where that fails they run as they are."""
        if not self._compiled:
            return
        began = time.monotonic()
        try:
            for frames in self._compiled:
                self._compile(frames, tokens_per_frame)
            print(f"compiled for {list(self._compiled)} frames in {time.monotonic() - began:.0f} s", flush=True)
        except Exception as error:  # whatever a compiler can raise
            self._execution = self._plain
            print(f"not compiled, runs unfused: {type(error).__name__}: {str(error)[:300]}", flush=True)
        self.transformer.zero_grad(set_to_none=True)

    def _compile(self, frames: int, tokens: int) -> None:
        config, device, dtype = self.transformer.config, self.transformer.device, self._execution.dtype
        heads, head_dim = config.num_attention_heads, config.attention_head_dim
        block = next(iter(self.transformer.layers()))

        def zeros(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
            return torch.zeros(frames, *shape, device=device, dtype=dtype, requires_grad=True)

        x, modulation = zeros(tokens, config.dim, dtype=dtype), zeros(6, config.dim)
        out = zeros(tokens, BRANCHES * heads, head_dim, dtype=dtype)
        angles = torch.zeros(frames, tokens, head_dim // 2, device=device)
        camera = torch.eye(4, device=device).repeat(frames, 1, 1)
        positions = Positions(angles, angles.clone(), camera, camera.clone())
        run = self._execution
        rows = run.before_attention(block, x, modulation, positions)
        last = run.keys_values(block, x, modulation, positions)
        y, q = run.after_attention(block, x, modulation, positions, out)
        y = run.after_text(block, y, modulation, q)
        torch.stack([part.float().sum() for part in (*rows, *last, y)]).sum().backward()

    def text(self, embeddings: Tensor) -> list[KeysValues]:
        """Return every block's keys and values [b, heads, tokens, d] of prompt embeddings [b, tokens, text_dim]."""
        return self.transformer.text_keys_values(embeddings, self._execution)

    def prefill(
        self,
        latents: Tensor,
        timesteps: Tensor,
        labels: Tensor,
        viewmats: Tensor,
        text: list[KeysValues],
        hidden: list[Tensor] | None = None,
    ) -> list[KeysValues]:
        """Return every block's keys and values [b, 2 heads, K n, d] of memory latents [b, C, K, h, w].

        To `hidden` the tokens [b K, n, dim] behind each block but the last are added.
        """
        positions = self._positions(range(latents.shape[2]), latents, viewmats)
        cache = [_Joined(len(latents)) for _ in text]
        self.transformer.prefill(
            latents, timesteps, labels, positions, text, cache, execution=self._execution, hidden=hidden
        )
        return [layer.latest for layer in cache if layer.latest is not None]

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
        draws, length = len(latents) // len(labels), latents.shape[2]
        tokens = self.transformer.config.tokens_per_frame((latents.shape[3], latents.shape[4]))
        remembered = 0 if memory is None else memory[0][0].shape[2] // tokens
        frames = range(remembered, remembered + length)
        positions = self._positions(frames, latents, viewmats.repeat_interleave(draws, 0))
        past: Sequence[KeysValues | None] = memory or [None] * len(text)
        velocity = self.transformer(
            latents,
            timesteps,
            labels.repeat_interleave(draws, 0),
            positions,
            text,
            [_Joined(len(latents), layer) for layer in past],
            execution=self._execution,
            hidden=hidden,
        )
        return velocity.float()

    def _positions(self, frames: range, latents: Tensor, viewmats: Tensor) -> Positions:
        height, width = latents.shape[3:]
        K = self._intrinsics.expand(*viewmats.shape[:2], -1, -1)
        return self.transformer.positions(frames, (height, width), viewmats, K, rigid=True)
