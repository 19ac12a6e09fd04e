"""First stage: the causal autoencoder learns to rebuild clips of scenes, in space and time.

Two things more are asked of its latents, for the sake of the transformer, which must move what it sees: depth can be
read from them by a linear map, and latents moved by a fraction of a latent pixel are those of the moved picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from worldplay_env.evaluate.metrics import psnr
from worldplay_env.models.codec import pixels_to_frames, uint8_to_pixels
from worldplay_env.models.config import TINY_V1, AutoencoderConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.transforms import channels_last
from worldplay_env.training import checkpoint, critic, depth
from worldplay_env.training.critic import Critic
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.parallel import peers
from worldplay_env.training.run import Run, RunOptions, compute_dtype, fast_convolutions
from worldplay_env.training.scene_clips import Clips, SceneClips, held_out_clips, training_seeds
from worldplay_env.weights.checkpoint import initialise

CLIP_LATENTS = 13
"""Length of a clip in latent frames: 49 images. Behind the first few frames a causal network sees no beginning any
more, as in a long rollout; clips of 5 latent frames gave 5 dB less there than in what they were trained on."""
HELD_OUT_LATENTS = 25
"""Length of the clips that are reported on: longer, since a rollout is."""
CLIP_FRAMES = 4 * CLIP_LATENTS - 3
SHARE = 0.1
"""Of a call's time that may go by while clips to report on are rendered, and again those to measure latents on."""
FIRST_LOG_VARIANCE = -5.0
"""Of the posterior before training: with more noise than that, the decoder has to begin without its input."""


@dataclass(frozen=True)
class AutoencoderOptions(RunOptions):
    """Train the autoencoder on clips of scenes, rendered as they are needed."""

    folder: Path = Path("runs/autoencoder")
    begin_with: Path | None = None
    """A finished run whose decoder is trained on, alone: latents stay what they are, for the later stages too."""
    report_every: float = 1.0
    clips: int = 6
    """Clips in a batch, of 49 images each."""
    scenes: int = 4096
    """Scenes that clips are drawn from."""
    second: float = 0.5
    """Share of them, and of the batches, that are of the scenes' second edition."""
    kl: float = 2e-4
    """Weight of the posterior's divergence from a standard normal, a mean over latents."""
    edges: float = 0.5
    """Weight of the error of the pictures' gradients."""
    depth: float = 0.15
    """Weight of the error of the depth that is read from the latents."""
    looks: float = 0.0
    """Weight of a critic's verdict on the rebuilt pictures (`training.critic`); 0: there is none."""
    moved: int = 2
    """Clips of a batch whose latents are moved before they are decoded; at most half of them."""
    held_out: int = 16
    """Clips of held-out scenes that are reported on; as many as are rendered in a tenth of the time."""
    measured: int = 96
    """Clips that the latents' mean and deviation are measured on; as many as are rendered in a tenth of the time."""

    def run(self) -> None:
        """Train, until the time is up."""
        train(self)


class DepthAutoencoder(nn.Module):
    """The autoencoder, and beside it the head that reads depth from the mean of its latents, and perhaps a critic."""

    def __init__(self, config: AutoencoderConfig, *, critic: bool = False) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(config)
        self.depth = nn.Linear(config.z_dim, depth.CELLS**2)
        self.critic = Critic() if critic else None

    def read_depth(self, mean: Tensor) -> Tensor:
        """Return the logarithm of inverse depth [B, T, h, w, cells] of latents float32 [B, z, T, h, w]."""
        return self.depth(mean.movedim(1, -1))


def train(options: AutoencoderOptions) -> Run[DepthAutoencoder]:
    """Train the autoencoder of the tiny world, or go on doing so; the run's checkpoint holds the result.

    Raises:
        ValueError: It is to begin with the run that it would write.
        CheckpointError: There is no checkpoint to begin with, or a damaged one.
    """
    if options.begin_with == options.folder:
        raise ValueError(
            f"--begin-with and --folder are both {options.folder}: the decoder needs a folder of its own"
        )
    device = peers().device(options.device)
    model = fresh(TINY_V1.autoencoder, options.seed, device, critic=options.looks > 0)
    autoencoder = model.autoencoder
    before = checkpoint.averages(options.begin_with) if options.begin_with is not None else None
    if before is not None:
        checkpoint.fill_networks(model, before.averages)
        for part in (autoencoder.encoder, autoencoder.quant_conv, model.depth):
            part.requires_grad_(False)
    run = Run(options, model, Optimiser(model, is_inside))
    if before is not None:
        config = measured_config(before.notes)
        run.notes |= {"latents_mean": list(config.latents_mean), "latents_std": list(config.latents_std)}
        run.notes["began_with"] = {"step": before.step, "seconds": before.seconds, "notes": before.notes}
    run.tell(f"building {options.scenes} scenes")
    pools = scene_pools(options, device)
    rows, columns = TINY_V1.latent_size
    depth_size = depth.CELLS * rows, depth.CELLS * columns
    run.tell(f"rendering {options.held_out} clips to report on")
    held_out = held_out_clips(
        options.held_out, HELD_OUT_LATENTS, TINY_V1.image_size, depth_size, device, goes_on=run.time_for(SHARE)
    )
    measured = None
    if before is None:
        run.tell(f"rendering {options.measured} clips to measure latents on")
        measured = render_measured(pools, options, run)
    count = options.clips * peers().count
    run.notes["data"] = f"{count} clips of {CLIP_FRAMES} images a step, through {options.scenes} scenes"
    losses_of = partial(losses, model, options)
    generator = torch.Generator(device)
    noise_shape = (options.clips, TINY_V1.autoencoder.z_dim, CLIP_LATENTS, *TINY_V1.latent_size)
    counts = f"{len(held_out.frames)} clips to report on, {0 if measured is None else len(measured)} to measure on"
    run.tell(f"training; {counts}")
    run.start_clock(report_at_once=True)  # later stages need what a report measures
    for step in run.steps():
        rng = np.random.default_rng((options.seed, step, peers().rank))
        clips = pools[-1] if rng.random() < options.second else pools[0]
        path = clips.wander(rng, options.clips, CLIP_LATENTS)
        video = as_video(clips.render(path.which, path.poses))
        true_depth = clips.depth(path.which, path.poses, depth_size)
        generator.manual_seed(int(rng.integers(2**31)))
        noise = torch.randn(noise_shape, generator=generator, device=device)
        run.lap("data")
        with fast_convolutions():
            run.update(losses_of, video, noise, true_depth, draw_offsets(rng, options, device))
        if run.report_is_due():
            report(run, held_out, measured, options.clips)
    if run.last_report_is_due():
        run.tell("the last report")
        report(run, held_out, measured, options.clips)
    run.save()
    return run


def scene_pools(options: AutoencoderOptions, device: torch.device) -> list[SceneClips]:
    """Build the scenes to train on: a pool of each edition, the first one before the second."""
    seeds = training_seeds(options.scenes, options.seed)
    count = round(options.scenes * (1 - options.second))
    return [
        SceneClips(
            part,
            TINY_V1.image_size,
            device,
            compile=options.compile and device.type == "cuda",
            frames_at_once=options.clips * CLIP_FRAMES,
            edition=edition,
        )
        for edition, part in ((1, seeds[:count]), (2, seeds[count:]))
        if part
    ]


def render_measured(pools: list[SceneClips], options: AutoencoderOptions, run: Run[DepthAutoencoder]) -> Tensor:
    """Render the clips that latents are measured on, uint8 [B, F, H, W, 3], within a tenth of the run's time."""
    rng = np.random.default_rng(1)
    goes_on, parts = run.time_for(SHARE), list[Tensor]()
    while (left := options.measured - options.clips * len(parts)) > 0:
        clips = pools[len(parts) % len(pools)]
        path = clips.wander(rng, min(left, options.clips), CLIP_LATENTS)
        parts.append(clips.render(path.which, path.poses))
        if not goes_on():
            break
    return torch.cat(parts)


def fresh(config: AutoencoderConfig, seed: int, device: torch.device, *, critic: bool = False) -> DepthAutoencoder:
    """Return an autoencoder to begin with: blocks that add little, pictures near grey, latents of little noise."""
    model = initialise(DepthAutoencoder(config, critic=critic), seed, device=device)
    autoencoder = channels_last(model.autoencoder)
    with torch.no_grad():
        for name, parameter in autoencoder.named_parameters():
            if name.endswith((".conv2.weight", ".proj.weight")):
                parameter.mul_(0.3)
        autoencoder.decoder.conv_out.weight.mul_(0.1)
        posterior = autoencoder.quant_conv
        assert posterior.bias is not None
        posterior.weight[config.z_dim :] = 0.0
        posterior.bias[config.z_dim :] = FIRST_LOG_VARIANCE
    return model


def is_inside(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a kernel between hidden layers, not one that meets pixels."""
    return (
        parameter.ndim >= 4
        and not name.endswith("gamma")
        and name.startswith("autoencoder.")
        and not name.startswith(("autoencoder.encoder.conv_in", "autoencoder.decoder.conv_out"))
    )


def as_video(frames: Tensor) -> Tensor:
    """Map uint8 frames [B, F, H, W, 3] to the autoencoder's video [B, 3, F, H, W] in [-1, 1]."""
    return uint8_to_pixels(frames).permute(0, 4, 1, 2, 3)


class _Rebuild(nn.Module):
    """The autoencoder as one function of a video: the pictures from noisy latents, and the posterior."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, video: Tensor, noise: Tensor | None, offsets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = (part.float() for part in self.autoencoder.encode(video))
        latents = mean if noise is None else mean + noise * (0.5 * log_variance).exp()
        if offsets is not None:
            latents = moved(latents, offsets / self.autoencoder.config.spatial_factor)
        rebuilt, _ = self.autoencoder.decode(self.autoencoder.normalise(latents), clamp=noise is None)
        return rebuilt.float(), mean, log_variance


def rebuild(
    autoencoder: Autoencoder, video: Tensor, noise: Tensor | None = None, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return video [B, 3, F, H, W] through encoder and decoder, and the latents' mean and log-variance, in float32.

    With noise [B, z, T, h, w], latents are drawn from the posterior and pictures not clamped, as training wants it.
    With offsets [n, 2] in pixels, the latents of the first n clips are moved before they are decoded.
    The float32 parameters are cast and all is computed in one dtype: automatic mixed precision would take the norms,
    and what lies between them, to float32.
    """
    dtype = compute_dtype(video.device)
    parameters = {f"autoencoder.{name}": value.to(dtype) for name, value in autoencoder.named_parameters()}
    return functional_call(_Rebuild(autoencoder), parameters, (video, noise, offsets))


def draw_offsets(rng: np.random.Generator, options: AutoencoderOptions, device: torch.device) -> Tensor:
    """Draw by how many whole pixels, down and across, the first clips are moved: float32 [n, 2]."""
    most = TINY_V1.autoencoder.spatial_factor
    drawn = rng.integers(-most, most, size=(min(options.moved, options.clips // 2), 2), endpoint=True)
    return torch.from_numpy(drawn.astype(np.float32)).to(device, non_blocking=True)


def moved(x: Tensor, offsets: Tensor) -> Tensor:
    """Move the first n rows of x [B, C, F, h, w] by offsets [n, 2], down and across, in its pixels, bilinearly.

    What comes in at the borders repeats the outermost pixels.
    """
    count, (height, width) = len(offsets), x.shape[-2:]
    frames = x[:count].transpose(1, 2).flatten(0, 1)  # [n F, C, h, w]
    rows = torch.arange(height, device=x.device) - offsets[:, :1]  # where a pixel comes from
    columns = torch.arange(width, device=x.device) - offsets[:, 1:]
    grid = torch.stack(
        (
            ((2 * columns + 1) / width - 1)[:, None].expand(-1, height, -1),
            ((2 * rows + 1) / height - 1)[:, :, None].expand(-1, -1, width),
        ),
        dim=-1,
    )
    grid = grid.repeat_interleave(x.shape[2], 0)
    frames = F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return torch.cat([frames.unflatten(0, (count, x.shape[2])).transpose(1, 2), x[count:]])


def inside(offsets: Tensor, video: Tensor) -> Tensor:
    """Return which pixels of a moved video show what was in it: float32 [B, 1, 1, H, W]."""
    height, width = video.shape[-2:]
    rows = torch.arange(height, device=video.device) - offsets[:, :1]
    columns = torch.arange(width, device=video.device) - offsets[:, 1:]
    down, across = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    shown = torch.ones(len(video), height, width, device=video.device)
    shown[: len(offsets)] = (down[:, :, None] & across[:, None]).float()
    return shown[:, None, None]


def losses(
    model: DepthAutoencoder,
    options: AutoencoderOptions,
    video: Tensor,
    noise: Tensor,
    true_depth: Tensor,
    offsets: Tensor,
) -> dict[str, Tensor]:
    """Return the losses on clips: reconstruction, its gradients, divergence, depth.

    Args:
        model: In training.
        options: The losses' weights.
        video: [B, 3, F, H, W].
        noise: [B, z, T, h, w].
        true_depth: [B, T, CELLS h, CELLS w].
        offsets: [n, 2] by which the first clips' latents are moved, in pixels.
    """
    rebuilt, mean, log_variance = rebuild(model.autoencoder, video, noise, offsets)
    mask = inside(offsets, video)
    rebuilt, video = rebuilt * mask, moved(video, offsets) * mask
    pixels = F.l1_loss(rebuilt, video) + 0.5 * F.mse_loss(rebuilt, video)
    edges = gradient_loss(rebuilt, video)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    read, truth = model.read_depth(mean), depth.cells(depth.target(true_depth))
    depths = depth.loss(read, truth)
    loss = pixels + options.edges * edges + options.kl * divergence + options.depth * depths
    judged: dict[str, Tensor] = {}
    if model.critic is not None:
        whole = slice(len(offsets), None)
        looks, critic_loss = critic.losses(model.critic, rebuilt[whole, :, ::4], video[whole, :, ::4])
        loss = loss + options.looks * looks + critic_loss
        judged = {"looks": looks, "critic": critic_loss}
    with torch.no_grad():
        squares = (rebuilt.clamp(-1, 1) - video).square()
        parts = {"psnr": squares[len(offsets) :]} | ({"psnr moved": squares[: len(offsets)]} if len(offsets) else {})
        figures = {name: 10 * torch.log10(4 / part.mean()) for name, part in parts.items()}
        figures["depth error"] = depth.error(read, truth)
    return {
        "loss": loss,
        "pixels": pixels,
        "edges": edges,
        "divergence": divergence,
        **judged,
        **figures,
    }


def gradient_loss(video: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute error of the differences between neighbours, down, across and in time."""
    error = video - truth
    parts = [error.diff(dim=dim).abs().mean() for dim in (2, 3, 4) if error.shape[dim] > 1]
    return torch.stack(parts).mean()


@torch.no_grad()
def report(run: Run[DepthAutoencoder], held_out: Clips, measured: Tensor | None, at_once: int) -> None:
    """Log PSNR and depth error of held-out clips, and a strip: truth above, reconstruction below.

    The latents' mean and deviation a channel over the clips `measured`, if there are any, join the notes, as a
    configuration holds them.
    """
    model, truth = run.averaged, held_out.frames
    parts = [rebuild(model.autoencoder, as_video(clips)) for clips in truth.split(at_once)]
    frames = pixels_to_frames(torch.cat([rebuilt for rebuilt, _, _ in parts]))
    decibels = psnr(frames.flatten(0, 1), truth.flatten(0, 1))
    read = torch.cat([model.read_depth(mean) for _, mean, _ in parts])
    figures = {
        "held-out psnr": float(decibels.mean()),
        "worst frame": float(decibels.min()),
        "depth error": float(depth.error(read, depth.cells(depth.target(held_out.depth)))),
    }
    run.notes |= {name: round(value, 3) for name, value in figures.items()}
    if measured is not None:
        means = [rebuild(model.autoencoder, as_video(clips))[1] for clips in measured.split(at_once)]
        latents = torch.cat(means).movedim(1, 0).flatten(1)  # [z, all]
        deviation = latents.std(1).clamp(min=1e-3)
        run.notes |= {"latents_mean": latents.mean(1).tolist(), "latents_std": deviation.tolist()}
    run.report(figures)
    rows = [torch.cat(list(row), dim=1) for row in (truth[:6, -1], frames[:6, -1])]
    run.show("reconstruction", torch.cat(rows, dim=0))


def measured_config(notes: Mapping[str, Any]) -> AutoencoderConfig:
    """Return the tiny autoencoder's configuration with the statistics that a run measured.

    Raises:
        ValueError: The run has not measured them: it was killed before its first report.
    """
    if "latents_mean" not in notes:
        raise ValueError("this autoencoder run has no latent statistics yet: resume it for a minute")
    mean, deviation = tuple(notes["latents_mean"]), tuple(notes["latents_std"])
    return replace(TINY_V1.autoencoder, latents_mean=mean, latents_std=deviation)
