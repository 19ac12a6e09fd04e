"""First stage: the causal autoencoder learns to rebuild clips of scenes, in space and time."""

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

from worldplay_env.evaluation.metrics import psnr
from worldplay_env.model.autoencoder import Autoencoder, pixels_to_uint8, uint8_to_pixels
from worldplay_env.model.config import TINY, AutoencoderConfig
from worldplay_env.training import checkpoint
from worldplay_env.training.data import SceneClips, held_out_clips, training_seeds
from worldplay_env.training.optimiser import Optimiser
from worldplay_env.training.run import Run, RunOptions, compute_dtype, fast_convolutions
from worldplay_env.weights.checkpoint import initialise
from worldplay_env.world import pick_device

CLIP_LATENTS = 13
"""Length of a clip in latent frames: 49 images. Behind the first few frames a causal network sees no beginning any
more, as in a long rollout; clips of 5 latent frames gave 5 dB less there than in what they were trained on."""
HELD_OUT_LATENTS = 25
"""Length of the clips that are reported on: longer, since a rollout is."""
CLIP_FRAMES = 4 * CLIP_LATENTS - 3
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
    kl: float = 2e-4
    """Weight of the posterior's divergence from a standard normal, a mean over latents."""
    edges: float = 0.5
    """Weight of the error of the pictures' gradients."""
    held_out: int = 16
    """Clips of held-out scenes that are reported on."""
    measured: int = 96
    """Clips that the latents' mean and deviation are measured on."""

    def run(self) -> None:
        """Train, until the time is up."""
        train(self)


def train(options: AutoencoderOptions) -> Run[Autoencoder]:
    """Train the autoencoder of the tiny world, or go on doing so; the run's checkpoint holds the result.

    Raises:
        ValueError: It is to begin with the run that it would write.
        CheckpointError: There is no checkpoint to begin with, or a damaged one.
    """
    if options.begin_with == options.folder:
        raise ValueError(
            f"--begin-with and --folder are both {options.folder}: the decoder needs a folder of its own"
        )
    device = pick_device(options.device)
    autoencoder = fresh(TINY.autoencoder, options.seed, device)
    before = checkpoint.averages(options.begin_with) if options.begin_with is not None else None
    if before is not None:
        checkpoint.fill(autoencoder, before.averages)
        for part in (autoencoder.encoder, autoencoder.quant_conv):
            part.requires_grad_(False)
    run = Run(options, autoencoder, Optimiser(autoencoder, is_inside))
    if before is not None:
        config = measured_config(before.notes)
        run.notes |= {"latents_mean": list(config.latents_mean), "latents_std": list(config.latents_std)}
        run.notes["began_with"] = {"step": before.step, "seconds": before.seconds, "notes": before.notes}
    clips = SceneClips(
        training_seeds(options.scenes, options.seed),
        TINY.image_size,
        device,
        compile=options.compile and device.type == "cuda",
        frames_at_once=options.clips * CLIP_FRAMES,
    )
    held_out = held_out_clips(options.held_out, HELD_OUT_LATENTS, TINY.image_size, device)
    measured = None
    if before is None:
        path = clips.wander(np.random.default_rng(1), options.measured, CLIP_LATENTS)
        measured = clips.render(path.which, path.poses)
    run.notes["data"] = f"{options.clips} clips of {CLIP_FRAMES} images a step, through {options.scenes} scenes"
    rng = np.random.default_rng((options.seed, run.step))
    losses_of = partial(losses, autoencoder, options)
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
    noise_shape = (options.clips, TINY.autoencoder.z_dim, CLIP_LATENTS, *TINY.latent_size)
    run.start_clock(report_at_once=True)  # later stages need what a report measures
    for _ in run.steps():
        path = clips.wander(rng, options.clips, CLIP_LATENTS)
        video = as_video(clips.render(path.which, path.poses))
        noise = torch.randn(noise_shape, generator=generator, device=device)
        run.lap("data")
        with fast_convolutions():
            run.update(losses_of, video, noise)
        if run.report_is_due():
            report(run, held_out, measured, options.clips)
    report(run, held_out, measured, options.clips)
    run.save()
    return run


def fresh(config: AutoencoderConfig, seed: int, device: torch.device) -> Autoencoder:
    """Return an autoencoder to begin with: blocks that add little, pictures near grey, latents of little noise."""
    autoencoder = channels_last(initialise(Autoencoder(config), seed, device=device))
    with torch.no_grad():
        for name, parameter in autoencoder.named_parameters():
            if name.endswith((".conv2.weight", ".proj.weight")):
                parameter.mul_(0.3)
        autoencoder.decoder.conv_out.weight.mul_(0.1)
        posterior = autoencoder.quant_conv
        assert posterior.bias is not None
        posterior.weight[config.z_dim :] = 0.0
        posterior.bias[config.z_dim :] = FIRST_LOG_VARIANCE
    return autoencoder


def channels_last(autoencoder: Autoencoder) -> Autoencoder:
    """Lay the kernels in memory as the activations lie, and return the autoencoder."""
    for layer in autoencoder.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return autoencoder


def is_inside(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a kernel between hidden layers, not one that meets pixels."""
    return (
        parameter.ndim >= 4
        and not name.endswith("gamma")
        and not name.startswith(("encoder.conv_in", "decoder.conv_out"))
    )


def as_video(frames: Tensor) -> Tensor:
    """Map uint8 frames [B, F, H, W, 3] to the autoencoder's video [B, 3, F, H, W] in [-1, 1]."""
    return uint8_to_pixels(frames).permute(0, 4, 1, 2, 3)


class _Rebuild(nn.Module):
    """The autoencoder as one function of a video: the pictures from noisy latents, and the posterior."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, video: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = (part.float() for part in self.autoencoder.encode(video))
        latents = mean if noise is None else mean + noise * (0.5 * log_variance).exp()
        rebuilt, _ = self.autoencoder.decode(self.autoencoder.normalise(latents), clamp=noise is None)
        return rebuilt.float(), mean, log_variance


def rebuild(autoencoder: Autoencoder, video: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return video [B, 3, F, H, W] through encoder and decoder, and the latents' mean and log-variance, in float32.

    With noise [B, z, T, h, w], latents are drawn from the posterior and pictures not clamped, as training wants it.
    The float32 parameters are cast and all is computed in one dtype: automatic mixed precision would take the norms,
    and what lies between them, to float32.
    """
    dtype = compute_dtype(video.device)
    parameters = {f"autoencoder.{name}": value.to(dtype) for name, value in autoencoder.named_parameters()}
    return functional_call(_Rebuild(autoencoder), parameters, (video, noise))


def losses(autoencoder: Autoencoder, options: AutoencoderOptions, video: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Return the reconstruction's losses on clips [B, 3, F, H, W]: absolute error, gradients' error, divergence."""
    rebuilt, mean, log_variance = rebuild(autoencoder, video, noise)
    pixels = F.l1_loss(rebuilt, video) + 0.5 * F.mse_loss(rebuilt, video)
    edges = gradient_loss(rebuilt, video)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = pixels + options.edges * edges + options.kl * divergence
    with torch.no_grad():
        error = (rebuilt.clamp(-1, 1) - video).square().mean()
        decibels = 10 * torch.log10(4 / error)
    return {"loss": loss, "pixels": pixels, "edges": edges, "divergence": divergence, "psnr": decibels}


def gradient_loss(video: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute error of the differences between neighbours, down, across and in time."""
    error = video - truth
    parts = [error.diff(dim=dim).abs().mean() for dim in (2, 3, 4) if error.shape[dim] > 1]
    return torch.stack(parts).mean()


@torch.no_grad()
def report(run: Run[Autoencoder], held_out: Tensor, measured: Tensor | None, at_once: int) -> None:
    """Log the PSNR of held-out clips uint8 [B, F, H, W, 3], and a strip: truth above, reconstruction below.

    The latents' mean and deviation a channel over the clips `measured`, if there are any, join the notes, as a
    configuration holds them.
    """
    parts = [rebuild(run.averaged, as_video(clips))[0] for clips in held_out.split(at_once)]
    frames = pixels_to_uint8(torch.cat(parts).permute(0, 2, 3, 4, 1))
    decibels = psnr(frames.flatten(0, 1), held_out.flatten(0, 1))
    figures = {"held-out psnr": float(decibels.mean()), "worst frame": float(decibels.min())}
    run.notes |= {name: round(value, 3) for name, value in figures.items()}
    if measured is not None:
        means = [rebuild(run.averaged, as_video(clips))[1] for clips in measured.split(at_once)]
        latents = torch.cat(means).movedim(1, 0).flatten(1)  # [z, all]
        deviation = latents.std(1).clamp(min=1e-3)
        run.notes |= {"latents_mean": latents.mean(1).tolist(), "latents_std": deviation.tolist()}
    run.report(figures)
    rows = [torch.cat(list(row), dim=1) for row in (held_out[:6, -1], frames[:6, -1])]
    run.show("reconstruction", torch.cat(rows, dim=0))


def measured_config(notes: Mapping[str, Any]) -> AutoencoderConfig:
    """Return the tiny autoencoder's configuration with the statistics that a run measured.

    Raises:
        ValueError: The run has not measured them: it was killed before its first report.
    """
    if "latents_mean" not in notes:
        raise ValueError("this autoencoder run has no latent statistics yet: resume it for a minute")
    mean, deviation = tuple(notes["latents_mean"]), tuple(notes["latents_std"])
    return replace(TINY.autoencoder, latents_mean=mean, latents_std=deviation)
