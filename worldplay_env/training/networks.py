"""What the two stages of the transformer share: networks, prefill, the four-step sampler, the loss of depth."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from worldplay_env.control.layout import LAYOUT
from worldplay_env.models.config import WorldConfig
from worldplay_env.models.wan.attention import KeysValues
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.text import embed, text_model
from worldplay_env.models.wan.transforms import channels_last
from worldplay_env.models.worldplay import sampler
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.training import checkpoint, depth
from worldplay_env.training.autoencoder import measured_config
from worldplay_env.training.critic import Critic
from worldplay_env.training.fused_transformer import FusedTransformer
from worldplay_env.training.latent_dataset import Chunks
from worldplay_env.weights.checkpoint import initialise, load_autoencoder

END_TOKEN = 1
"""The one token of the empty prompt."""


DEPTH_BLOCK = 1
"""Index of the block behind which depth is read from the tokens: what follows can move them by it."""


class Networks(nn.Module):
    """The networks that are trained together: the transformer, the small text encoder, the head that reads depth.

    Args:
        config: Sizes.
        critic: Whether a critic of the decoded pictures is trained with them.
    """

    def __init__(self, config: WorldConfig, *, critic: bool = False) -> None:
        super().__init__()
        self.transformer = Transformer(config.transformer)
        self.text = text_model(config.text)
        _, rows, columns = config.transformer.patch_size
        self.patch = rows, columns
        self.depth = nn.Linear(config.transformer.dim, depth.CELLS**2 * rows * columns)
        self.critic = Critic() if critic else None

    def cells(self, frames: Tensor) -> Tensor:
        """Return what the tokens of M frames cover, [M, n, cells], of values [M, CELLS h, CELLS w]."""
        return depth.cells(frames, *self.patch).flatten(1, 2)

    def read_depth(self, tokens: list[Tensor], true: Tensor) -> tuple[Tensor, Tensor]:
        """Read the logarithm of inverse depth from tokens, [M, n, cells], and return the true one beside it.

        Args:
            tokens: Those of M frames behind each block.
            true: [b, M / b, CELLS h, CELLS w] depth along the optical axis, in units; inf for sky.
        """
        return self.depth(tokens[DEPTH_BLOCK].float()), self.cells(depth.target(true.flatten(0, 1)))

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return prompt embeddings [b, text_len, text_dim] of token ids and their mask [b, text_len]."""
        return embed(self.text, tokens, mask)


def fresh(config: WorldConfig, seed: int, device: torch.device, *, critic: bool = False) -> Networks:
    """Return networks to begin with: blocks that add little, with open gates and no modulation; velocity 0."""
    networks = initialise(Networks(config, critic=critic), seed, device=device)
    transformer = networks.transformer
    with torch.no_grad():
        for layer in (transformer.modulation_projection, transformer.output_projection):
            layer.weight.zero_()
            layer.bias.zero_()
        transformer.modulation_table.zero_()
        share = (2 * config.transformer.num_layers) ** -0.5
        for block in transformer.layers():
            block.modulation_table.zero_()
            block.modulation_table[:, [2, 5]] = 1.0
            attention = block.self_attention
            for layer in (attention.to_out, attention.to_out_prope, block.feed_forward.linear_2):
                layer.weight.mul_(share)
            block.cross_attention.to_out.weight.mul_(share)
    return networks


def is_inside(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix of one of the transformer's blocks."""
    return name.startswith("transformer.blocks.") and parameter.ndim == 2


def trained_autoencoder(run_folder: Path, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """Return the averaged autoencoder of a run, frozen.

    Raises:
        CheckpointError: The run has no checkpoint, or a damaged one.
        ValueError: Its latents' statistics are missing: it was killed before its first report.
    """
    saved = checkpoint.averages(run_folder)
    averages = checkpoint.part(saved.averages, "autoencoder.")
    autoencoder = load_autoencoder(averages, measured_config(saved.notes), device=device, dtype=dtype)
    return channels_last(autoencoder.requires_grad_(False))


def depth_loss(networks: Networks, chunks: Chunks, remembered: list[Tensor], coming: list[Tensor]) -> Tensor:
    """Return the loss of the depth that is read from the tokens of chunks and of their memory.

    Args:
        networks: Its head reads.
        chunks: b chunks with memories of K latent frames.
        remembered: The tokens behind each block of the memory, see `FusedTransformer.prefill`; empty without memory.
        coming: Those of the chunks, D draws of each.
    """
    past, future = chunks.depth.split((chunks.memory.shape[2], LAYOUT.latents), dim=1)
    draws = len(coming[DEPTH_BLOCK]) // (len(future) * LAYOUT.latents)
    parts = [(coming, future.repeat_interleave(draws, 0))] + ([(remembered, past)] if remembered else [])
    return torch.stack([depth.loss(*networks.read_depth(tokens, true)) for tokens, true in parts]).mean()


def denoise(
    fused: FusedTransformer,
    chunks: Chunks,
    noise: Tensor,
    text: list[KeysValues],
    memory: list[KeysValues] | None,
    hidden: list[Tensor] | None = None,
) -> list[Tensor]:
    """Run the four steps of the schedule (spec section 7) and return each one's prediction of the clean chunks.

    The last prediction is the result. Each step has gradients of its own: what it starts from is detached. In chunk 0
    (no memory), latent frame 0 is the start's picture: it is given clean and not changed.

    Args:
        fused: The transformer.
        chunks: b chunks, of which the cameras, the labels and that first frame are used.
        noise: float32 [b D, C, 4, h, w] that they are made from: D draws of each, those of one chunk side by side.
        text: What `fused.text` returned for their prompts.
        memory: What `remember` returned for them.
        hidden: Where the tokens behind each block of the first step are added.

    Returns:
        Four of float32 [b D, C, 4, h, w].
    """
    clean = chunks.clean.repeat_interleave(len(noise) // len(chunks.clean), 0)
    known = torch.zeros(noise.shape[0], LAYOUT.latents, dtype=torch.bool, device=noise.device)
    known[:, 0] = memory is None
    length = chunks.memory.shape[2]
    labels, viewmats = chunks.labels[:, length:], chunks.viewmats[:, length:]
    watched = [hidden]  # by the first step alone

    def velocity(x: Tensor, timesteps: Tensor) -> Tensor:
        tokens = watched.pop() if watched else None
        return fused.velocity(x, timesteps, labels, viewmats, text, memory, tokens)

    steps = sampler.denoise(velocity, noise, clean, known, noise.dtype)
    return [step.prediction() for step in steps]


def remember(
    fused: FusedTransformer, chunks: Chunks, text: list[KeysValues], hidden: list[Tensor] | None = None
) -> list[KeysValues] | None:
    """Prefill the chunks' memory, see `FusedTransformer.prefill`; None if they have none."""
    length = chunks.memory.shape[2]
    if not length:
        return None
    timesteps = torch.full((len(chunks.memory), length), sampler.KNOWN_TIMESTEP, device=chunks.memory.device)
    return fused.prefill(
        chunks.memory, timesteps, chunks.labels[:, :length], chunks.viewmats[:, :length], text, hidden
    )


def without_prompts(tokens: Tensor, mask: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
    """Return token ids and mask [b, text_len] with some prompts, bool [b], emptied."""
    empty = torch.zeros_like(tokens)
    empty[:, 0] = 1
    return torch.where(dropped[:, None], END_TOKEN * empty, tokens), torch.where(dropped[:, None], empty, mask)
