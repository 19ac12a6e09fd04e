"""What the two stages of the transformer share: networks, the four-step sampler, held-out rollouts."""

from __future__ import annotations

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
from worldplay_env.training import checkpoint
from worldplay_env.training.autoencoder import channels_last, measured_config
from worldplay_env.training.latents import Chunks, LatentPaths
from worldplay_env.training.paths import memory_length
from worldplay_env.training.pieces import FusedTransformer
from worldplay_env.training.run import Run, compute_dtype
from worldplay_env.weights.checkpoint import initialise, load_autoencoder
from worldplay_env.world import CHUNK_LATENTS

END_TOKEN = 1
"""The one token of the empty prompt."""


class Dreamer(nn.Module):
    """The networks that are trained together: the transformer and the small text encoder."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config.transformer)
        self.text = text_model(config.text)

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
        depth = (2 * config.transformer.num_layers) ** -0.5
        for block in transformer.layers():
            block.modulation_table.zero_()
            block.modulation_table[:, [2, 5]] = 1.0
            attention = block.self_attention
            for layer in (attention.to_out, attention.to_out_prope, block.feed_forward.linear_2):
                layer.weight.mul_(depth)
            block.cross_attention.to_out.weight.mul_(depth)
    return dreamer


def is_inside(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix of one of the transformer's blocks."""
    return name.startswith("transformer.blocks.") and parameter.ndim == 2


def trained_autoencoder(
    run_folder: Path, config: WorldConfig, device: torch.device, dtype: torch.dtype
) -> Autoencoder:
    """Return the averaged autoencoder of a run, frozen.

    Raises:
        CheckpointError: The run has no checkpoint, or a damaged one.
        ValueError: Its latents' statistics are missing: it was killed before its first report.
    """
    saved = checkpoint.averages(run_folder)
    autoencoder = load_autoencoder(saved.averages, measured_config(saved.notes), device=device, dtype=dtype)
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


def remember(fused: FusedTransformer, chunks: Chunks, text: list[KeysValues]) -> list[KeysValues] | None:
    """Prefill the chunks' memory; None if they have none."""
    length = chunks.memory.shape[2]
    if not length:
        return None
    timesteps = torch.full((len(chunks.memory), length), sampler.KNOWN_TIMESTEP, device=chunks.memory.device)
    return fused.prefill(chunks.memory, timesteps, chunks.labels[:, :length], chunks.viewmats[:, :length], text)


@torch.no_grad()
def roll_out(dreamer: Dreamer, paths: LatentPaths, chunks: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Dream the first chunks of all paths from their first picture: latents float32 [N, C, 4 chunks, h, w]."""
    fused = FusedTransformer(dreamer.transformer, dtype)
    device = paths.latents.device
    rows = torch.arange(len(paths), device=device)
    text = fused.text(dreamer.embed(paths.tokens, paths.mask))
    history = paths.latents.clone()
    generator = torch.Generator(device).manual_seed(seed)
    for chunk in range(chunks):
        part = paths.take(rows, torch.full_like(rows, chunk), memory_length(chunk), history=history)
        noise = torch.randn(part.clean.shape, generator=generator, device=device)
        made = denoise(fused, part, noise, text, remember(fused, part, text))[-1]
        history[:, chunk * CHUNK_LATENTS : (chunk + 1) * CHUNK_LATENTS] = made.transpose(1, 2).half()
    return history[:, : chunks * CHUNK_LATENTS].transpose(1, 2).float()


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
    dreamt = decode(autoencoder, roll_out(run.averaged, paths, chunks, compute_dtype(run.device)))
    rebuilt = decode(autoencoder, paths.latents[:, : CHUNK_LATENTS * chunks].transpose(1, 2).float())
    each = _decibels(dreamt, truth)  # [N, frames]
    bounds = [0] + [13 + 16 * chunk for chunk in range(chunks)]
    figures = {
        "held-out psnr": float(each.mean()),
        "psnr of short term": float(each[:, 1 : bounds[min(4, chunks)]].mean()),
        "psnr of last chunk": float(each[:, bounds[-2] :].mean()),
        "psnr of autoencoder": float(_decibels(rebuilt, truth).mean()),
        "psnr of first frame": float(_decibels(truth[:, :1].expand_as(truth), truth)[:, 1:].mean()),
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
