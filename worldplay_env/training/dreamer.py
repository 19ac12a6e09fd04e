"""What the two stages of the transformer share: networks, the four-step sampler, held-out rollouts."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from worldplay_env.evaluation.metrics import psnr
from worldplay_env.model import sampler
from worldplay_env.model.attention import KeysValues
from worldplay_env.model.autoencoder import Autoencoder, pixels_to_uint8
from worldplay_env.model.config import WorldConfig
from worldplay_env.model.text import embed, text_model
from worldplay_env.model.transformer import Transformer
from worldplay_env.training import checkpoint, depth
from worldplay_env.training.autoencoder import channels_last, measured_config
from worldplay_env.training.latents import Chunks, LatentPaths
from worldplay_env.training.paths import memory_length
from worldplay_env.training.pieces import FusedTransformer
from worldplay_env.training.run import Run, compute_dtype
from worldplay_env.weights.checkpoint import initialise, load_autoencoder
from worldplay_env.world import CHUNK_LATENTS

END_TOKEN = 1
"""The one token of the empty prompt."""


DEPTH_BLOCK = 1
"""Index of the block behind which depth is read from the tokens: what follows can move them by it."""


class Dreamer(nn.Module):
    """The networks that are trained together: the transformer, the small text encoder, the head that reads depth."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config.transformer)
        self.text = text_model(config.text)
        _, rows, columns = config.transformer.patch_size
        self.patch = rows, columns
        self.depth = nn.Linear(config.transformer.dim, depth.CELLS**2 * rows * columns)

    def true_depth(self, frames: Tensor) -> Tensor:
        """Return what is to be read from the tokens of frames: [M, n, cells] of their depth [M, 2 h, 2 w]."""
        return depth.target(frames, *self.patch).flatten(1, 2)

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return prompt embeddings [b, text_len, text_dim] of token ids and their mask [b, text_len]."""
        return embed(self.text, tokens, mask)


def fresh(config: WorldConfig, seed: int, device: torch.device) -> Dreamer:
    """Return networks to begin with: blocks that add little, with open gates and no modulation; velocity 0."""
    dreamer = initialise(Dreamer(config), seed, device=device)
    transformer = dreamer.transformer
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
    return dreamer


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


def denoise(
    fused: FusedTransformer, chunks: Chunks, noise: Tensor, text: list[KeysValues], memory: list[KeysValues] | None
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

    Returns:
        Four of float32 [b D, C, 4, h, w].
    """
    clean = chunks.clean.repeat_interleave(len(noise) // len(chunks.clean), 0)
    known = torch.zeros(noise.shape[0], CHUNK_LATENTS, dtype=torch.bool, device=noise.device)
    known[:, 0] = memory is None
    mask = known[:, None, :, None, None]
    length = chunks.memory.shape[2]
    x = torch.where(mask, clean, noise)
    predictions = []
    for step, timestep in enumerate(sampler.TIMESTEPS):
        timesteps = torch.where(known, sampler.KNOWN_TIMESTEP, timestep)
        flow = fused.velocity(x, timesteps, chunks.labels[:, length:], chunks.viewmats[:, length:], text, memory)
        predictions.append(torch.where(mask, clean, x - sampler.SIGMAS[step] * flow))
        x = torch.where(mask, x, sampler.euler_step(x, flow, step)).detach()
    return predictions


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


@torch.no_grad()
def roll_out(
    dreamer: Dreamer,
    paths: LatentPaths,
    chunks: int,
    dtype: torch.dtype,
    seed: int = 0,
    *,
    true_memory: bool = False,
) -> Tensor:
    """Dream the first chunks of all paths from their first picture: latents float32 [N, C, 4 chunks, h, w].

    Memory is what was dreamt before, or with `true_memory` the true latents.
    """
    fused = FusedTransformer(dreamer.transformer, dtype)
    device = paths.latents.device
    rows = torch.arange(len(paths), device=device)
    text = fused.text(dreamer.embed(paths.tokens, paths.mask))
    history = paths.latents.clone()
    dreamt = []
    generator = torch.Generator(device).manual_seed(seed)
    for chunk in range(chunks):
        part = paths.take(rows, torch.full_like(rows, chunk), memory_length(chunk), history=history)
        noise = torch.randn(part.clean.shape, generator=generator, device=device)
        made = denoise(fused, part, noise, text, remember(fused, part, text))[-1]
        dreamt.append(made)
        if not true_memory:
            history[:, chunk * CHUNK_LATENTS : (chunk + 1) * CHUNK_LATENTS] = made.transpose(1, 2).half()
    return torch.cat(dreamt, dim=2)


@torch.no_grad()
def read_depth(dreamer: Dreamer, paths: LatentPaths, chunks: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return how far the depth of chunks is off that is read from their tokens, at the first step from noise.

    The root mean square error of the logarithm over the first chunks of all paths, which have true memory.
    """
    fused = FusedTransformer(dreamer.transformer, dtype)
    device = paths.latents.device
    rows = torch.arange(len(paths), device=device)
    text = fused.text(dreamer.embed(paths.tokens, paths.mask))
    generator = torch.Generator(device).manual_seed(seed)
    squares = []
    for chunk in range(1, chunks):
        part = paths.take(rows, torch.full_like(rows, chunk), memory_length(chunk))
        noise = torch.randn(part.clean.shape, generator=generator, device=device)
        hidden: list[Tensor] = []
        length = part.memory.shape[2]
        timesteps = torch.full((len(rows), CHUNK_LATENTS), sampler.TIMESTEPS[0], device=device)
        fused.velocity(
            noise,
            timesteps,
            part.labels[:, length:],
            part.viewmats[:, length:],
            text,
            remember(fused, part, text),
            hidden,
        )
        truth = dreamer.true_depth(part.depth[:, length:].flatten(0, 1))
        squares.append(depth.error(dreamer.depth(hidden[DEPTH_BLOCK].float()), truth).square())
    return torch.stack(squares).mean().sqrt()


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents: Tensor, at_once: int = 8) -> Tensor:
    """Decode whole videos [N, C, T, h, w] to frames uint8 [N, 4 T - 3, H, W, 3]."""
    parts = [pixels_to_uint8(autoencoder.decode(part)[0]) for part in latents.split(at_once)]
    return torch.cat(parts).permute(0, 2, 3, 4, 1).contiguous()


def report(run: Run[Dreamer], autoencoder: Autoencoder, paths: LatentPaths, chunks: int) -> None:
    """Log how held-out rollouts of so many chunks compare with the truth, and show some: truth above, dream below.

    Figures are PSNR of whole frames: of all chunks, of the last, of the autoencoder, of repeating the first frame.
    """
    assert paths.frames is not None
    frames = 4 * CHUNK_LATENTS * chunks - 3
    truth = paths.frames[:, :frames]
    dtype, few = compute_dtype(run.device), min(4, chunks)
    dreamt = decode(autoencoder, roll_out(run.averaged, paths, chunks, dtype))
    single = decode(autoencoder, roll_out(run.averaged, paths, few, dtype, true_memory=True))
    rebuilt = decode(autoencoder, paths.latents[:, : CHUNK_LATENTS * chunks].transpose(1, 2).float())
    each = _decibels(dreamt, truth)  # [N, frames]
    bounds = [0] + [13 + 16 * chunk for chunk in range(chunks)]
    figures = {
        "held-out psnr": float(each.mean()),
        "psnr of short term": float(each[:, 1 : bounds[few]].mean()),
        "psnr of true memory": float(_decibels(single, truth[:, : bounds[few]])[:, 1:].mean()),
        "psnr of last chunk": float(each[:, bounds[-2] :].mean()),
        "psnr of autoencoder": float(_decibels(rebuilt, truth).mean()),
        "psnr of first frame": float(_decibels(truth[:, :1].expand_as(truth), truth)[:, 1:].mean()),
        "depth error": float(read_depth(run.averaged, paths, few, dtype)) if few > 1 else math.nan,
        "contrast": float(dreamt.float().std((2, 3)).mean() / truth.float().std((2, 3)).mean()),
    }
    run.notes |= {name: round(value, 3) for name, value in figures.items()}
    run.report(figures)
    by_chunk = [float(each[:, first:end].mean()) for first, end in pairwise(bounds)]
    print("  psnr by chunk:", *(f"{value:.2f}" for value in by_chunk), flush=True)
    shown = [end - 1 for end in bounds[1:]][:: max(1, chunks // 4)][:5]
    pairs = [video[path, shown] for path in range(min(4, len(paths))) for video in (truth, dreamt)]
    run.show("rollouts", torch.cat([torch.cat(list(row), dim=1) for row in pairs], dim=0))


def _decibels(video: Tensor, truth: Tensor) -> Tensor:
    """Return the PSNR of each frame of videos uint8 [N, F, H, W, 3]: float [N, F]."""
    each = [psnr(*pair) for pair in zip(video, truth, strict=True)]
    return torch.stack(each)


def without_prompts(tokens: Tensor, mask: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
    """Return token ids and mask [b, text_len] in which some prompts, bool [b], are empty."""
    empty = torch.zeros_like(tokens)
    empty[:, 0] = 1
    return torch.where(dropped[:, None], END_TOKEN * empty, tokens), torch.where(dropped[:, None], empty, mask)
