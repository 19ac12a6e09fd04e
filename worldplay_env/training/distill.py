"""Third stage: the four-step sampler learns on the model's own rollouts (self-forcing, Huang et al., 2025).

Rollouts of many paths are always under way. A step takes some of them one chunk further: memory is the model's own
history, each of the four steps starts from where the step before it came, and every step's prediction is compared
with the true chunk. What was made joins the history, for the chunks to come. So the model meets its own errors, as
old and as many as in use, and learns to undo them. Steps on true latents as memory are mixed in.

What a chunk must be depends on what came before it. What the first picture or the memory shows is certain: there the
predictions are to be near the truth. The rest is for the model to invent: there they are judged by the energy score
(Gneiting & Raftery, 2007), under which it is best to draw from what there could be, not to average it. And what the
model invented and remembers, nobody knows the truth of: there nothing is asked but the contrast that the scene has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.layout import LAYOUT
from worldplay_env.models.config import TINY_V1
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.worldplay.memory import MEMORY
from worldplay_env.training import checkpoint, critic, transformer
from worldplay_env.training.fused_transformer import FusedTransformer
from worldplay_env.training.held_out import report
from worldplay_env.training.latent_dataset import Chunks, LatentPaths
from worldplay_env.training.losses import contrast_score, latent_score, pictures, pixel_score
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.networks import Networks, denoise, depth_loss, fresh, is_inside, remember, without_prompts
from worldplay_env.training.parallel import peers
from worldplay_env.training.run import Run, fast_convolutions
from worldplay_env.training.trajectories import memory_length
from worldplay_env.training.transformer import PROMPTS_DROPPED, TransformerStageOptions, flow_losses, noised, prepare

STEP_WEIGHTS = (0.5, 0.5, 0.5, 1.0)
"""Of the four steps' predictions; the last is what is kept."""
LIFETIMES = (2, 4, 8, None)
"""Chunks after which a group of rollouts begins anew; None: at the end of its paths."""
CONTEXT = 2
"""Latent frames of memory that the decoder sees before a chunk whose pixels are compared."""
SAMPLES = 2
"""Times that a chunk is made in a step, from other noise; the first goes into the history."""


@dataclass(frozen=True)
class DistillOptions(TransformerStageOptions):
    """Train the four-step sampler on the model's own rollouts, beginning with a run of the transformer stage."""

    folder: Path = Path("runs/distill")
    transformer: Path = Path("runs/transformer")
    """The run to begin with."""
    learning_rate: float = 1e-3
    chunks: int = 24
    paths: int = 8192
    groups: int = 8
    """Groups of rollouts under way; each has frames / 16 of them."""
    replay: float = 0.1
    """Share of steps that are flow matching on true latents, some of them from text alone."""
    true_memory: float = 0.3
    """Share of the other steps whose memory is true latents."""
    pixels: float = 2.0
    """Weight of the decoded pictures' score."""
    contrast: float = 0.15
    """Weight of the score of their contrasts."""
    decoded: int = 16
    """Chunks of a step that are decoded for both; with 0 the latents alone are compared, in half the time."""
    looks: float = 0.0
    """Weight of a critic's verdict on the decoded pictures (`training.critic`); 0: there is none."""
    memory_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.looks and not self.decoded:
            raise ValueError("looks are of decoded pictures: decoded must be above 0")

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
        """Add generated latents [b, C, 4, h, w]."""
        first = self.chunk * LAYOUT.latents
        self._history[:, first : first + LAYOUT.latents] = made.detach().transpose(1, 2).half()
        self.chunk += 1


def train(options: DistillOptions) -> Run[Networks]:
    """Train the four-step sampler of the tiny world, or go on doing so."""
    device = peers().device(options.device)
    networks = fresh(TINY_V1, options.seed, device, critic=options.looks > 0)
    begins = not checkpoint.exists(options.folder)
    if begins:
        before = checkpoint.averages(options.transformer)
        checkpoint.fill_networks(networks, before.averages)
    run = Run(options, networks, Optimiser(networks, is_inside))
    if begins:
        run.notes["began_with"] = {"step": before.step, "seconds": before.seconds, "notes": before.notes}
    compiled = (options.frames, SAMPLES * options.frames // 4)  # full memories, and rollouts' chunks
    fused, autoencoder, paths, held_out = prepare(options, run, data_seed=7 + run.step, compiled=compiled)
    rng = np.random.default_rng((options.seed, run.step, 1, peers().rank))
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
    count = options.frames // MEMORY
    groups = [Rollouts(paths, count) for _ in range(options.groups)]
    if begins and run.is_first:
        report(run, autoencoder, held_out, options.chunks)
    own = partial(rollout_losses, networks, fused, autoencoder, options)
    replayed = partial(flow_losses, networks, fused, options.depth)
    run.start_clock()
    for step in run.steps():
        if rng.random() < options.replay:
            batch = transformer.draw(paths, options, rng, generator)
            run.lap("data")
            run.update(replayed, batch)
        elif rng.random() < options.true_memory:
            coming = draw_true(paths, count, options, rng, generator)
            run.lap("data")
            with fast_convolutions():
                run.update(own, coming)
        else:
            rollouts = groups[step % len(groups)]
            rollouts.next(rng)
            coming = draw(rollouts, paths, options, generator)
            run.lap("data")
            with fast_convolutions():
                rollouts.commit(run.update(own, coming)["made"])
        if run.report_is_due():
            report(run, autoencoder, held_out, options.chunks)
    if run.last_report_is_due():
        report(run, autoencoder, held_out, options.chunks)
    run.save()
    return run


class RolloutBatch(NamedTuple):
    """What a step of self-forcing is computed from: the coming chunks of b rollouts.

    Attributes:
        chunks: Their memory is lightly noised.
        context: [n, C, 0 or 2, h, w] the last frames of memory, as they are, of the chunks that are decoded.
        tokens: int64 [b, text_len], some of them of the empty prompt.
        mask: int64 [b, text_len].
        asked: bool [b, 4, h, w], the latent pixels that are compared with the truth.
        invented: bool [b, 4, h, w], those that nothing before shows.
        noise: float32 [2 b, C, 4, h, w] that the chunks are made from, twice each.
    """

    chunks: Chunks
    context: Tensor
    tokens: Tensor
    mask: Tensor
    asked: Tensor
    invented: Tensor
    noise: Tensor


def draw(rollouts: Rollouts, paths: LatentPaths, options: DistillOptions, generator: torch.Generator) -> RolloutBatch:
    """Return the coming chunks of a group of rollouts, and the noise to make them from."""
    rows, length = rollouts.rows, memory_length(rollouts.chunk)
    at_first, before = paths.shown(rows, torch.full_like(rows, rollouts.chunk), length)
    return _batch(rollouts.take(), rows, at_first | ~before, ~before, paths, options, generator)


def draw_true(
    paths: LatentPaths, count: int, options: DistillOptions, rng: np.random.Generator, generator: torch.Generator
) -> RolloutBatch:
    """Return chunks of `count` paths, all with the same number, that have the true latents as memory."""
    rows = torch.randint(len(paths), (count,), generator=generator, device=generator.device)
    number = int(rng.integers(paths.chunks))
    chunk, length = torch.full_like(rows, number), memory_length(number)
    _, before = paths.shown(rows, chunk, length)
    return _batch(paths.take(rows, chunk, length), rows, torch.ones_like(before), ~before, paths, options, generator)


def _batch(
    chunks: Chunks,
    rows: Tensor,
    asked: Tensor,
    invented: Tensor,
    paths: LatentPaths,
    options: DistillOptions,
    generator: torch.Generator,
) -> RolloutBatch:
    dropped = torch.rand(len(rows), generator=generator, device=rows.device) < PROMPTS_DROPPED
    context = chunks.memory[: options.decoded, :, -CONTEXT:]
    chunks = chunks._replace(memory=noised(chunks, options.memory_noise, generator))
    prompts = without_prompts(paths.tokens[rows], paths.mask[rows], dropped)
    shape = (SAMPLES * len(rows), *chunks.clean.shape[1:])
    noise = torch.randn(shape, generator=generator, device=rows.device)
    return RolloutBatch(chunks, context, *prompts, asked, invented, noise)


def rollout_losses(
    networks: Networks,
    fused: FusedTransformer,
    autoencoder: Autoencoder,
    options: DistillOptions,
    batch: RolloutBatch,
) -> dict[str, Tensor]:
    """Return the losses of the four steps' predictions, and what was "made", [b, C, 4, h, w]."""
    chunks = batch.chunks
    text = fused.text(networks.embed(batch.tokens, batch.mask))
    remembered: list[Tensor] = []
    coming: list[Tensor] = []
    memory = remember(fused, chunks, text, remembered)
    predictions = denoise(fused, chunks, batch.noise, text, memory, coming)
    pairs = [prediction.unflatten(0, (-1, SAMPLES)) for prediction in predictions]  # [b, 2, C, 4, h, w]
    scores = [latent_score(pair, chunks.clean, batch.asked, batch.invented) for pair in pairs]
    latents = sum(share * score for share, score in zip(STEP_WEIGHTS, scores, strict=True)) / sum(STEP_WEIGHTS)
    depths = depth_loss(networks, chunks, remembered, coming)
    made = pairs[-1][:, 0]
    found = {"last step": scores[-1], "depth": depths, "made": made}
    loss = latents + options.depth * depths
    few = slice(len(batch.context))  # the chunks that are compared as pictures
    if not len(batch.context):
        return {"loss": loss, **found}
    shown = partial(pictures, autoencoder, context=batch.context)
    with torch.no_grad():
        truth = shown(chunks.clean[few])
    first, second = (shown(made) for made in pairs[-1][few].unbind(1))
    asked, invented = batch.asked[few], batch.invented[few]
    pixels = pixel_score(first, second, truth, asked, invented)
    contrast = contrast_score(first, second, truth, asked & ~invented)
    loss = loss + options.pixels * pixels + options.contrast * contrast
    found |= {"pixels": pixels, "contrast": contrast}
    if networks.critic is not None:
        looks, critic_loss = critic.losses(networks.critic, first, truth)
        loss = loss + options.looks * looks + critic_loss
        found |= {"looks": looks, "critic": critic_loss}
    return {"loss": loss, **found}
