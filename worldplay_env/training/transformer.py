"""Second stage: the transformer learns the flow from noise to chunks, given memory, cameras, actions and prompt.

Flow matching (Lipman et al., 2023) over single chunks of true latents: x = (1 - s) clean + s noise, and the velocity
noise - clean is learnt, mostly at the four noise levels of the sampler. Memory is what `memory.select` chooses, each
frame noised for itself but the first picture, and sometimes without its newest frames: so nothing is copied from
them without a look at the older ones, and the small errors of a rollout's own history do not grow. Depth is to be
readable from the tokens behind the first blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.layout import LAYOUT
from worldplay_env.models.config import TINY_V1
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.worldplay import sampler
from worldplay_env.training.fused_transformer import FusedTransformer
from worldplay_env.training.held_out import report
from worldplay_env.training.latent_dataset import HELD_OUT_PATHS, Chunks, LatentPaths, render_paths
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.networks import (
    Networks,
    depth_loss,
    fresh,
    is_inside,
    remember,
    trained_autoencoder,
    without_prompts,
)
from worldplay_env.training.parallel import peers
from worldplay_env.training.run import Run, RunOptions, compute_dtype
from worldplay_env.training.scene_clips import training_seeds
from worldplay_env.training.trajectories import plans

MEMORY_LENGTHS = (0, 4, 8, 12, 16)
MEMORY_SHARES = (0.13, 0.12, 0.11, 0.11, 0.53)
"""How often a batch has each length of memory: a long rollout mostly has the last."""
ELSEWHERE = 0.1
"""Share of noise draws that are at any noise level, not at one of the sampler's."""
PROMPTS_DROPPED = 0.15
NEWEST_DROPPED = 0.3
"""Share of the chunks with a memory of 4 to 12 frames that have a longer one, without its newest frames."""


@dataclass(frozen=True)
class TransformerStageOptions(RunOptions):
    """What both stages of the transformer take."""

    autoencoder: Path = Path("runs/autoencoder")
    """The finished run of the autoencoder."""
    paths: int = 12288
    """Paths that are rendered and encoded before training, one a scene."""
    data_seconds: float = 75.0
    """Time for that, at most half of what is left then; training goes on with the paths that are ready."""
    second: float = 0.5
    """Share of the paths that are through scenes of the second edition."""
    chunks: int = 16
    """Length of a path."""
    frames: int = 1152
    """Latent frames in a batch, a multiple of 48: chunks x memory length, for any length."""
    workers: int = 14
    """Processes that plan paths; 0 plans in this one."""
    held_out: int = 32
    """Paths through held-out scenes that are reported on."""
    memory_noise: float = 0.5
    """Most noise in a memory frame: its level is this times two draws from 0 to 1, the chunk's and its own."""
    depth: float = 0.1
    """Weight of the error of the depth that is read from the tokens."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frames % 48:
            raise ValueError(
                f"frames must be a multiple of 48, so that every memory length divides it; got {self.frames}"
            )


@dataclass(frozen=True)
class TransformerOptions(TransformerStageOptions):
    """Train the transformer and the text encoder by flow matching on chunks."""

    folder: Path = Path("runs/transformer")
    learning_rate: float = 2e-3

    def run(self) -> None:
        """Train, until the time is up."""
        train(self)


def train(options: TransformerOptions) -> Run[Networks]:
    """Train the networks of the tiny world by flow matching, or go on doing so."""
    device = peers().device(options.device)
    networks = fresh(TINY_V1, options.seed, device)
    run = Run(options, networks, Optimiser(networks, is_inside))
    material = prepare(options, run, data_seed=run.step, compiled=(options.frames,))
    rng = np.random.default_rng((options.seed, run.step, peers().rank))
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
    losses = partial(flow_losses, networks, material.fused, options.depth)
    run.start_clock()
    for _ in run.steps():
        batch = draw(material.paths, options, rng, generator)
        run.lap("data")
        run.update(losses, batch)
        if run.report_is_due():
            report(run, material.autoencoder, material.held_out, min(4, options.chunks))
    if run.is_first:
        report(run, material.autoencoder, material.held_out, options.chunks)
    run.save()
    return run


class Material(NamedTuple):
    """What both stages of the transformer train with.

    Attributes:
        fused: The transformer in training.
        autoencoder: Trained, frozen.
        paths: The paths to train on.
        held_out: Those to report on, with their true video.
    """

    fused: FusedTransformer
    autoencoder: Autoencoder
    paths: LatentPaths
    held_out: LatentPaths


def prepare(
    options: TransformerStageOptions, run: Run[Networks], data_seed: int, compiled: tuple[int, ...]
) -> Material:
    """Load the autoencoder, fuse the transformer, and render the paths, which are planned in the meantime.

    Args:
        options: Of the stage.
        run: Of the stage; its notes will say what the data are.
        data_seed: Another one gives other paths, through the same or other scenes.
        compiled: See `FusedTransformer`; used if the options say to compile.
    """
    dtype, size = compute_dtype(run.device), TINY_V1.image_size
    autoencoder = trained_autoencoder(options.autoencoder, run.device, dtype)
    fuse = options.compile and run.device.type == "cuda"
    render = partial(render_paths, autoencoder=autoencoder, text=TINY_V1.text, size=size, compile=fuse)
    data_seed = options.seed + data_seed * peers().count + peers().rank
    seeds = training_seeds(options.paths, 1 + data_seed % 16)
    held_out_seeds = range(HELD_OUT_PATHS, HELD_OUT_PATHS + options.held_out)
    with plans(seeds, options.chunks, size, data_seed, options.workers, options.second) as planned:
        fused = FusedTransformer(run.module.transformer, dtype, compiled if options.compile else ())
        fused.warm_up(TINY_V1.tokens_per_frame)
        run.tell(f"rendering {options.held_out} paths to report on")
        with plans(held_out_seeds, options.chunks, size) as held_out_plans:
            held_out = render(held_out_plans, keep_frames=True)
        seconds = min(options.data_seconds, 0.5 * run.seconds_left())
        run.tell(f"rendering paths to train on, for {max(0.0, seconds):.0f} s at most")
        paths = render(planned, seconds=seconds)
    run.note_then("data", f"{len(paths) * peers().count} paths of {paths.chunks} chunks, one a scene")
    return Material(fused, autoencoder, paths, held_out)


class FlowBatch(NamedTuple):
    """What a step of flow matching is computed from: b chunks with memories of K latent frames, D noise draws each.

    Attributes:
        chunks: Their memory is lightly noised.
        tokens: int64 [b, text_len], some of them of the empty prompt.
        mask: int64 [b, text_len].
        known: bool [b, 4], the latent frames that are given clean.
        timesteps: float32 [b D].
        noise: float32 [b D, C, 4, h, w].
    """

    chunks: Chunks
    tokens: Tensor
    mask: Tensor
    known: Tensor
    timesteps: Tensor
    noise: Tensor


def draw(
    paths: LatentPaths, options: TransformerStageOptions, rng: np.random.Generator, generator: torch.Generator
) -> FlowBatch:
    """Draw a batch, all of whose chunks have equally long memories."""
    device = paths.latents.device
    lengths = [length for length in MEMORY_LENGTHS if length < LAYOUT.latents * paths.chunks]
    shares = np.array(MEMORY_SHARES[: len(lengths)])
    length = int(rng.choice(lengths, p=shares / shares.sum()))
    batch = options.frames // (length or MEMORY_LENGTHS[-1])
    draws = options.frames // (LAYOUT.latents * batch)
    rows = torch.randint(len(paths), (batch,), generator=generator, device=device)
    first = length // LAYOUT.latents
    last = paths.chunks if length == MEMORY_LENGTHS[-1] else first + 1
    chunk = torch.randint(first, last, (batch,), generator=generator, device=device)
    if length and last < paths.chunks:
        later = torch.randint(last, paths.chunks, (batch,), generator=generator, device=device)
        later = later.clamp(max=last) if length < MEMORY_LENGTHS[-2] else later
        shortened = torch.rand(batch, generator=generator, device=device) < NEWEST_DROPPED
        chunk = torch.where(shortened, later, chunk)
    chunks = paths.take(rows, chunk, length)
    chunks = chunks._replace(memory=noised(chunks, options.memory_noise, generator))
    dropped = torch.rand(batch, generator=generator, device=device) < PROMPTS_DROPPED
    known = torch.zeros(batch, LAYOUT.latents, dtype=torch.bool, device=device)
    if not length:  # chunk 0: the start's picture is known, but for some that begin from text alone
        known[:, 0] = torch.rand(batch, generator=generator, device=device) > 0.1
    timesteps = draw_timesteps(batch, draws, generator)
    noise = torch.randn(len(timesteps), *chunks.clean.shape[1:], generator=generator, device=device)
    prompts = without_prompts(paths.tokens[rows], paths.mask[rows], dropped)
    return FlowBatch(chunks, *prompts, known, timesteps, noise)


def flow_losses(
    networks: Networks, fused: FusedTransformer, depth_weight: float, batch: FlowBatch
) -> dict[str, Tensor]:
    """Return the flow-matching loss of a batch, and that of the depth of its memory and chunks."""
    chunks, timesteps = batch.chunks, batch.timesteps
    length, draws = chunks.memory.shape[2], len(timesteps) // len(chunks.clean)
    text = fused.text(networks.embed(batch.tokens, batch.mask))
    remembered: list[Tensor] = []
    coming: list[Tensor] = []
    memory = remember(fused, chunks, text, remembered)
    known = batch.known.repeat_interleave(draws, 0)
    mask = known[:, None, :, None, None]
    clean = chunks.clean.repeat_interleave(draws, 0)
    sigma = (timesteps / 1000)[:, None, None, None, None]
    x = torch.where(mask, clean, (1 - sigma) * clean + sigma * batch.noise)
    flow = fused.velocity(
        x,
        torch.where(known, sampler.KNOWN_TIMESTEP, timesteps[:, None]),
        chunks.labels[:, length:],
        chunks.viewmats[:, length:],
        text,
        memory,
        coming,
    )
    error = (flow - (batch.noise - clean)).square().masked_fill(mask, 0.0)
    each = error.mean((1, 2, 3, 4))
    noisiest = timesteps == sampler.TIMESTEPS[0]
    at_first = (each.detach() * noisiest).sum() / noisiest.sum().clamp(min=1)
    depths = depth_loss(networks, chunks, remembered, coming)
    loss = each.mean() + depth_weight * depths
    return {"loss": loss, "flow": each.mean(), "from pure noise": at_first, "depth": depths}


def draw_timesteps(batch: int, draws: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps, float32 [batch x draws], 1 to 4 draws: different ones of the sampler's, a few anywhere."""
    device = generator.device
    levels = _levels(device)
    order = torch.rand(batch, len(levels), generator=generator, device=device).argsort(1)[:, :draws]
    elsewhere = 1000 * torch.rand(batch, draws, generator=generator, device=device)
    anywhere = torch.rand(batch, draws, generator=generator, device=device) < ELSEWHERE
    return torch.where(anywhere, elsewhere, levels[order]).flatten()


@cache
def _levels(device: torch.device) -> Tensor:
    """Return the sampler's timesteps; kept, since to copy them to a device is to wait for it."""
    return torch.tensor(sampler.TIMESTEPS, device=device)


def noised(chunks: Chunks, most: float, generator: torch.Generator) -> Tensor:
    """Mix noise into memory latents [b, C, K, h, w], into each frame at a level of its own, up to `most`.

    The picture that a rollout begins with stays as it is: it is never the model's own.
    """
    memory = chunks.memory
    batch, _, length = memory.shape[:3]
    shape = (batch, 1, length, 1, 1)
    chunk = torch.rand(batch, 1, 1, 1, 1, generator=generator, device=memory.device)
    own = torch.rand(shape, generator=generator, device=memory.device)
    level = torch.where(chunks.starts.view(shape), 0.0, most * chunk * own)
    noise = torch.randn(memory.shape, generator=generator, device=memory.device)
    return (1 - level) * memory + level * noise
