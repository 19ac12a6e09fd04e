"""How the transformer's networks do on held-out paths: rollouts against the true video, and why they are off.

A rollout can go wrong in two ways: what one chunk makes of a perfect past, and what becomes of that when it is the
past. So a rollout with the true past as its memory is measured beside the model's own. Depth, sharpness and attention
tell where a poor chunk comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from worldplay_env.control.actions import NUM_CLASSES
from worldplay_env.control.layout import LAYOUT
from worldplay_env.evaluate.metrics import luminance, psnr
from worldplay_env.models.codec import Codec, pixels_to_frames
from worldplay_env.models.wan.attention import attend
from worldplay_env.models.worldplay import sampler
from worldplay_env.models.worldplay.attention import BRANCHES
from worldplay_env.training import depth
from worldplay_env.training.fused_transformer import FusedTransformer
from worldplay_env.training.latent_dataset import LatentPaths
from worldplay_env.training.networks import Networks, denoise, remember
from worldplay_env.training.run import Run
from worldplay_env.training.trajectories import memory_length

FIGURES = {
    "held-out psnr": "dB, the mean of all frames",
    "psnr of short term": "dB, of chunks 0 to 3",
    "psnr of true memory": "dB, of chunks 0 to 3, each with the true past as memory",
    "psnr of last chunk": "dB, of the last chunk of a path",
    "psnr of autoencoder": "dB, of the same videos encoded and decoded: the most that can be had",
    "psnr of first frame": "dB, of showing the first frame all along",
    "forward below yaw": "dB that chunks of walking straight are below chunks of turning, with true memory",
    "depth error": "root mean square error of the logarithm of depth, read linearly from the chunks' tokens",
    "depth error of memory": "the same of the memory's tokens, which see their pictures as they are",
    "power at 9 pixels": "of what the past shows, in chunk 3, relative to the truth: 1 is right",
    "attention to the start": "share of chunk 3's attention that goes to the first picture",
    "attention to the newest": "share of it that goes to the newest memory frame",
    "contrast": "of generated frames relative to the true ones: 1 is right",
}
"""What the figures mean."""

_BAND = (7.5, 10.5)
"""Periods in pixels whose power is compared."""
_WATCHED = 3
"""The chunk whose sharpness and attention are measured."""
_AT_ONCE = 4
"""Paths whose attention is measured together."""


@torch.no_grad()
def roll_out(
    networks: Networks,
    paths: LatentPaths,
    chunks: int,
    dtype: torch.dtype,
    seed: int = 0,
    *,
    true_memory: bool = False,
) -> Tensor:
    """Dream the first chunks of all paths from their first picture: latents float32 [N, C, 4 chunks, h, w].

    Memory is what was generated before, or with `true_memory` the true latents.
    """
    fused = FusedTransformer(networks.transformer, dtype)
    device = paths.latents.device
    rows = torch.arange(len(paths), device=device)
    text = fused.text(networks.embed(paths.tokens, paths.mask))
    history = paths.latents.clone()
    generated = []
    generator = torch.Generator(device).manual_seed(seed)
    for chunk in range(chunks):
        part = paths.take(rows, torch.full_like(rows, chunk), memory_length(chunk), history=history)
        noise = torch.randn(part.clean.shape, generator=generator, device=device)
        made = denoise(fused, part, noise, text, remember(fused, part, text))[-1]
        generated.append(made)
        if not true_memory:
            history[:, chunk * LAYOUT.latents : (chunk + 1) * LAYOUT.latents] = made.transpose(1, 2).half()
    return torch.cat(generated, dim=2)


@torch.no_grad()
def read_depth(
    networks: Networks, paths: LatentPaths, chunks: int, dtype: torch.dtype, seed: int = 0
) -> tuple[float, float]:
    """Return the errors of the depth read from the tokens of chunks with a true past, and of their memory's.

    Root mean square errors of the logarithm, at the first step of chunks 1 to `chunks` - 1 of all paths: over what
    the past shows of the chunks, and over all of the memory.
    """
    fused = FusedTransformer(networks.transformer, dtype)
    rows = torch.arange(len(paths), device=paths.latents.device)
    chunk_depths, memory_depths, counts = [], [], []
    for chunk in range(1, chunks):
        where, length = torch.full_like(rows, chunk), memory_length(chunk)
        remembered: list[Tensor] = []
        coming = _first_step(fused, networks, paths, rows, chunk, seed, remembered)
        past, future = paths.take(rows, where, length).depth.split((length, LAYOUT.latents), dim=1)
        memory_depths.append(networks.read_depth(remembered, past))
        chunk_depths.append(networks.read_depth(coming, future))
        _, shown = paths.shown(rows, where, length)
        finer = shown.repeat_interleave(depth.CELLS, -1).repeat_interleave(depth.CELLS, -2)
        counts.append(networks.cells(finer.flatten(0, 1)))
    read, true = map(torch.cat, zip(*chunk_depths, strict=True))
    past_read, past_true = map(torch.cat, zip(*memory_depths, strict=True))
    return float(depth.error(read, true, torch.cat(counts))), float(depth.error(past_read, past_true))


def _first_step(
    fused: FusedTransformer,
    networks: Networks,
    paths: LatentPaths,
    rows: Tensor,
    chunk: int,
    seed: int,
    remembered: list[Tensor] | None = None,
) -> list[Tensor]:
    """Return the tokens behind each block at the first step of chunks whose memory is the true past.

    Those of the memory are added to `remembered`.
    """
    device = rows.device
    part = paths.take(rows, torch.full_like(rows, chunk), memory_length(chunk))
    text = fused.text(networks.embed(paths.tokens[rows], paths.mask[rows]))
    noise = torch.randn(part.clean.shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    length, hidden = part.memory.shape[2], list[Tensor]()
    timesteps = torch.full((len(rows), LAYOUT.latents), sampler.TIMESTEPS[0], device=device)
    memory = remember(fused, part, text, remembered)
    fused.velocity(noise, timesteps, part.labels[:, length:], part.viewmats[:, length:], text, memory, hidden)
    return hidden


@torch.no_grad()
def attention_shares(networks: Networks, paths: LatentPaths, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return the share of attention that chunk 3 pays to each latent frame of memory and chunk: [blocks, 16].

    A mean over paths, queries and heads at the first step, with the true past as memory.
    """
    height, width = paths.latents.shape[-2:]
    config = networks.transformer.config
    tokens, heads = config.tokens_per_frame((height, width)), BRANCHES * config.num_attention_heads
    shares: list[Tensor] = []

    def watched(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        if q.shape[1] < heads:  # the text's
            return attend(q, k, v, seen)
        weights = torch.einsum("bhqd,bhkd->bhqk", q.float(), k.float()).mul_(q.shape[-1] ** -0.5).softmax(-1)
        if k.shape[2] > q.shape[2]:  # not the prefill, which attends to itself
            shares.append(weights.mean((0, 1, 2)).unflatten(0, (-1, tokens)).sum(1))
        return torch.einsum("bhqk,bhkd->bhqd", weights, v.float()).to(q.dtype)

    fused = FusedTransformer(networks.transformer, dtype, attention=watched)
    for rows in torch.arange(len(paths), device=paths.latents.device).split(_AT_ONCE):
        _first_step(fused, networks, paths, rows, _WATCHED, seed)
    blocks = len(list(networks.transformer.layers()))
    return torch.stack(shares).unflatten(0, (-1, blocks)).mean(0)


def power(frames: Tensor, counts: Tensor) -> float:
    """Return the power of pictures uint8 [F, H, W, 3] at periods near 9 pixels, where bool [F, H, W] counts."""
    grey = luminance(frames)
    rows, columns = (torch.fft.fftfreq(size, device=grey.device) for size in grey.shape[1:])
    frequency = (rows[:, None].square() + columns.square()).sqrt()
    band = (frequency > 1 / _BAND[1]) & (frequency < 1 / _BAND[0])
    detail = torch.fft.ifft2(torch.fft.fft2(grey) * band).real
    return float(detail.square()[counts].mean())


@dataclass(frozen=True)
class HeldOut:
    """Held-out rollouts and their measures.

    Attributes:
        figures: By the names in `FIGURES`.
        by_chunk: PSNR of each chunk of the model's own rollouts.
        truth: uint8 [N, F, H, W, 3].
        generated: The model's own rollouts, likewise.
    """

    figures: dict[str, float]
    by_chunk: list[float]
    truth: Tensor
    generated: Tensor


@torch.no_grad()
def measure(
    networks: Networks, autoencoder: Codec, paths: LatentPaths, chunks: int, *, thorough: bool = False
) -> HeldOut:
    """Measure rollouts of so many chunks along paths that keep their true video.

    Args:
        networks: The networks.
        autoencoder: Of the latents, in the compute dtype.
        paths: Held-out ones.
        chunks: Length of the rollouts.
        thorough: Whether to measure as well why they are off: motion, depth, sharpness, attention.
    """
    assert paths.frames is not None
    truth = paths.frames[:, : LAYOUT.images_before(chunks)]
    dtype, few = next(autoencoder.parameters()).dtype, min(4, chunks)
    generated = decode(autoencoder, roll_out(networks, paths, chunks, dtype))
    known = chunks if thorough else few
    single = decode(autoencoder, roll_out(networks, paths, known, dtype, true_memory=True))
    rebuilt = decode(autoencoder, paths.latents[:, : LAYOUT.latents * chunks].transpose(1, 2).float())
    each, apart = decibels(generated, truth), decibels(single, truth[:, : single.shape[1]])  # [N, frames]
    bounds = [0] + [LAYOUT.images_before(chunk + 1) for chunk in range(chunks)]
    figures = {
        "held-out psnr": float(each.mean()),
        "psnr of short term": float(each[:, 1 : bounds[few]].mean()),
        "psnr of true memory": float(apart[:, 1 : bounds[few]].mean()),
        "psnr of last chunk": float(each[:, bounds[-2] :].mean()),
        "psnr of autoencoder": float(decibels(rebuilt, truth).mean()),
        "psnr of first frame": float(decibels(truth[:, :1].expand_as(truth), truth)[:, 1:].mean()),
        "contrast": float(generated.float().std((2, 3)).mean() / truth.float().std((2, 3)).mean()),
    }
    if thorough and chunks > _WATCHED:
        figures |= _by_motion(apart, paths.labels, bounds)
        figures["depth error"], figures["depth error of memory"] = read_depth(networks, paths, few, dtype)
        shares = attention_shares(networks, paths, dtype).mean(0)
        figures["attention to the start"] = float(shares[0])
        figures["attention to the newest"] = float(shares[memory_length(_WATCHED) - 1])
        frames = slice(bounds[_WATCHED], bounds[_WATCHED + 1])
        counts = _shown(paths, _WATCHED, truth.shape[2])
        powers = [power(video[:, frames].flatten(0, 1), counts) for video in (generated, truth)]
        figures["power at 9 pixels"] = powers[0] / powers[1]
    by_chunk = [float(each[:, first:end].mean()) for first, end in pairwise(bounds)]
    return HeldOut(figures, by_chunk, truth, generated)


def _by_motion(each: Tensor, labels: Tensor, bounds: list[int]) -> dict[str, float]:
    """Return how far walking straight is below turning, of the PSNR [N, frames] with true memory."""
    means: dict[str, list[float]] = {"forward": [], "yaw": []}
    kinds = {NUM_CLASSES: "forward", 2 * NUM_CLASSES: "forward", 1: "yaw", 2: "yaw"}
    for chunk, (first, end) in enumerate(pairwise(bounds)):
        own = labels[:, chunk * LAYOUT.latents : (chunk + 1) * LAYOUT.latents]
        for row in torch.nonzero((own == own[:, :1]).all(1))[:, 0].tolist():
            kind = kinds.get(int(own[row, 0]))
            if chunk and kind:
                means[kind].append(float(each[row, first:end].mean()))
    if not all(means.values()):
        return {}
    forward, yaw = (sum(values) / len(values) for values in means.values())
    return {"forward below yaw": yaw - forward}


def _shown(paths: LatentPaths, chunk: int, height: int) -> Tensor:
    """Return which pixels of a later chunk's frames the past shows: bool [N 16, H, W]."""
    rows = torch.arange(len(paths), device=paths.latents.device)
    _, shown = paths.shown(rows, torch.full_like(rows, chunk), memory_length(chunk))
    shown = shown.repeat_interleave(LAYOUT.images, 1).flatten(0, 1).float()[:, None]
    return F.interpolate(shown, scale_factor=height // shown.shape[-2])[:, 0] > 0.5


@torch.no_grad()
def decode(autoencoder: Codec, latents: Tensor, at_once: int = 8) -> Tensor:
    """Decode whole videos [N, C, T, h, w] to frames uint8 [N, 4 T - 3, H, W, 3]."""
    return torch.cat([pixels_to_frames(autoencoder.decode(part)[0]) for part in latents.split(at_once)])


def report(run: Run[Networks], autoencoder: Codec, paths: LatentPaths, chunks: int) -> None:
    """Log how held-out rollouts compare with the true video, and show some: truth above, rollout below."""
    found = measure(run.averaged, autoencoder, paths, chunks)
    run.notes |= {name: round(value, 3) for name, value in found.figures.items()}
    run.report(found.figures)
    print("  psnr by chunk:", *(f"{value:.2f}" for value in found.by_chunk), flush=True)
    run.show("rollouts", strips(found, chunks))


def strips(found: HeldOut, chunks: int) -> Tensor:
    """Return the last frames of some chunks of up to four rollouts, the truth above each: uint8 [H, W, 3]."""
    shown = [LAYOUT.images_before(chunk + 1) - 1 for chunk in range(0, chunks, max(1, chunks // 4))][:5]
    pair = found.truth, found.generated
    videos = [video[path, shown] for path in range(min(4, len(found.truth))) for video in pair]
    return torch.cat([torch.cat(list(row), dim=1) for row in videos], dim=0)


def decibels(video: Tensor, truth: Tensor) -> Tensor:
    """Return the PSNR of each frame of videos uint8 [N, F, H, W, 3]: float [N, F]."""
    each = [psnr(*pair) for pair in zip(video, truth, strict=True)]
    return torch.stack(each)
