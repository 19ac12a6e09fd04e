"""Third stage: the four-step sampler learns on the model's own rollouts (self-forcing, Huang et al., 2025).

Rollouts of many paths are always under way. A step takes some of them one chunk further: memory is the model's own
history, each of the four steps starts from where the step before it came, and every step's prediction is compared
with the true chunk. What was made joins the history, for the chunks to come. So the model meets its own errors, as
old and as many as in use, and learns to undo them. Steps of flow matching on true latents are mixed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldplay_env.memory import MEMORY
from worldplay_env.model.autoencoder import Autoencoder
from worldplay_env.model.config import TINY
from worldplay_env.training import checkpoint, transformer
from worldplay_env.training.dreamer import (
    Dreamer,
    denoise,
    fresh,
    is_inside,
    remember,
    report,
    without_prompts,
)
from worldplay_env.training.latents import Chunks, LatentPaths
from worldplay_env.training.optimiser import Optimiser
from worldplay_env.training.paths import memory_length
from worldplay_env.training.pieces import FusedTransformer
from worldplay_env.training.run import Run, fast_convolutions
from worldplay_env.training.transformer import (
    PROMPTS_DROPPED,
    DreamerOptions,
    flow_losses,
    noised,
    prepare,
)
from worldplay_env.world import CHUNK_LATENTS, pick_device

STEP_WEIGHTS = (0.5, 0.5, 0.5, 1.0)
"""Of the four steps' predictions; the last is what is kept."""
LIFETIMES = (2, 4, 8, None)
"""Chunks after which a group of rollouts begins anew; None: at the end of its paths."""
CONTEXT = 2
"""Latent frames of memory that the decoder sees before a chunk whose pixels are compared."""


@dataclass(frozen=True)
class DistillOptions(DreamerOptions):
    """Train the four-step sampler on the model's own rollouts, beginning with a run of the transformer stage."""

    folder: Path = Path("runs/distill")
    transformer: Path = Path("runs/transformer")
    """The run to begin with."""
    learning_rate: float = 5e-4
    chunks: int = 20
    paths: int = 8192
    groups: int = 8
    """Groups of rollouts under way; each has frames / 16 of them."""
    replay: float = 0.3
    """Share of steps that are flow matching on true latents."""
    pixels: float = 1.0
    """Weight of the decoded pictures' absolute error."""
    decoded: int = 16
    """Chunks of a step that are decoded for it."""
    memory_noise: float = 0.1

    def run(self) -> None:
        """Train, until the time is up."""
        train(self)


class Rollouts:
    """A group of rollouts, all at the same chunk, with the latents that the model made for them.

    Args:
        paths: What they follow.
        count: Rollouts in the group.
    """

    def __init__(self, paths: LatentPaths, count: int) -> None:
        self._paths, self._count = paths, count
        self._history = torch.empty_like(paths.latents[:1]).repeat(count, 1, 1, 1, 1)
        self.rows = torch.zeros(count, dtype=torch.int64, device=paths.latents.device)
        self.chunk = self._end = 0

    def next(self, rng: np.random.Generator) -> None:
        """Begin anew, along other paths, if the rollouts are at their end."""
        if self.chunk < self._end:
            return
        rows = rng.choice(len(self._paths), self._count, replace=len(self._paths) < self._count)
        self.rows = torch.from_numpy(rows).to(self.rows.device)
        lifetime = LIFETIMES[rng.integers(len(LIFETIMES))] or self._paths.chunks
        self.chunk, self._end = 0, min(lifetime, self._paths.chunks)

    def take(self) -> Chunks:
        """Return the coming chunks, with the rollouts' own memory."""
        return self._paths.take(
            self.rows, torch.full_like(self.rows, self.chunk), memory_length(self.chunk), history=self._history
        )

    def commit(self, made: Tensor) -> None:
        """Add what was made, [b, C, 4, h, w]."""
        first = self.chunk * CHUNK_LATENTS
        self._history[:, first : first + CHUNK_LATENTS] = made.detach().transpose(1, 2).half()
        self.chunk += 1


def train(options: DistillOptions) -> Run[Dreamer]:
    """Train the four-step sampler of the tiny world, or go on doing so."""
    device = pick_device(options.device)
    dreamer = fresh(TINY, options.seed, device)
    begins = not checkpoint.exists(options.folder)
    if begins:
        before = checkpoint.averages(options.transformer)
        checkpoint.fill(dreamer, before.averages)
    run = Run(options, dreamer, Optimiser(dreamer, is_inside))
    if begins:
        run.notes["began_with"] = {"step": before.step, "seconds": before.seconds, "notes": before.notes}
    compiled = (options.frames, options.frames // 4)  # full memories, and rollouts' chunks
    fused, autoencoder, paths, held_out = prepare(options, run, data_seed=7 + run.step, compiled=compiled)
    rng = np.random.default_rng((options.seed, run.step, 1))
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
    groups = [Rollouts(paths, options.frames // MEMORY) for _ in range(options.groups)]
    if begins:
        report(run, autoencoder, held_out, options.chunks)
    own = partial(rollout_losses, dreamer, fused, autoencoder, options.pixels)
    replayed = partial(flow_losses, dreamer, fused)
    run.start_clock()
    for step in run.steps():
        if rng.random() < options.replay:
            batch = transformer.draw(paths, options, rng, generator)
            run.lap("data")
            run.update(replayed, batch)
        else:
            rollouts = groups[step % len(groups)]
            rollouts.next(rng)
            coming = draw(rollouts, paths, options, generator)
            run.lap("data")
            with fast_convolutions():
                rollouts.commit(run.update(own, coming)["made"])
        if run.report_is_due():
            report(run, autoencoder, held_out, options.chunks)
    report(run, autoencoder, held_out, options.chunks)
    run.save()
    return run


class RolloutBatch(NamedTuple):
    """What a step of self-forcing is computed from: the coming chunks of b rollouts.

    Attributes:
        chunks: Their memory is the rollouts' own history, lightly noised.
        context: [n, C, 0 or 2, h, w] the last frames of memory, as they are, of the chunks that are decoded.
        tokens: int64 [b, text_len], some of them of the empty prompt.
        mask: int64 [b, text_len].
        noise: float32 [b, C, 4, h, w] that the chunks are made from.
    """

    chunks: Chunks
    context: Tensor
    tokens: Tensor
    mask: Tensor
    noise: Tensor


def draw(rollouts: Rollouts, paths: LatentPaths, options: DistillOptions, generator: torch.Generator) -> RolloutBatch:
    """Return the coming chunks of a group of rollouts, and the noise to make them from."""
    chunks, rows = rollouts.take(), rollouts.rows
    dropped = torch.rand(len(rows), generator=generator, device=rows.device) < PROMPTS_DROPPED
    context = chunks.memory[: options.decoded, :, -CONTEXT:]
    chunks = chunks._replace(memory=noised(chunks.memory, options.memory_noise, generator))
    prompts = without_prompts(paths.tokens[rows], paths.mask[rows], dropped)
    noise = torch.randn(chunks.clean.shape, generator=generator, device=rows.device)
    return RolloutBatch(chunks, context, *prompts, noise)


def rollout_losses(
    dreamer: Dreamer, fused: FusedTransformer, autoencoder: Autoencoder, weight: float, batch: RolloutBatch
) -> dict[str, Tensor]:
    """Return the losses of the four steps' predictions, and what was "made", [b, C, 4, h, w].

    Args:
        weight: Of the decoded pictures' absolute error.
    """
    chunks = batch.chunks
    text = fused.text(dreamer.embed(batch.tokens, batch.mask))
    predictions = denoise(fused, chunks, batch.noise, text, remember(fused, chunks, text))
    made = predictions[-1]
    errors = [(prediction - chunks.clean).square().mean() for prediction in predictions]
    latents = sum(share * error for share, error in zip(STEP_WEIGHTS, errors, strict=True)) / sum(STEP_WEIGHTS)
    pixels = errors[0].new_zeros(())
    if weight:
        count = len(batch.context)
        pixels = pixel_loss(autoencoder, made[:count], chunks.clean[:count], batch.context)
    return {"loss": latents + weight * pixels, "last step": errors[-1], "pixels": pixels, "made": made}


def pixel_loss(autoencoder: Autoencoder, made: Tensor, clean: Tensor, context: Tensor) -> Tensor:
    """Return the mean absolute error of chunks' pictures, both decoded behind the same context [b, C, 0.., h, w]."""
    skipped = max(0, 4 * context.shape[2] - 3)

    def pictures(latents: Tensor) -> Tensor:
        frames, _ = autoencoder.decode(torch.cat([context, latents], dim=2), clamp=False)
        return frames[:, :, skipped:].float()

    with torch.no_grad():
        truth = pictures(clean)
    return (pictures(made) - truth).abs().mean()
