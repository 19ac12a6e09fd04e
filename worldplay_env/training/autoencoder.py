"""First stage: the causal autoencoder learns to rebuild clips of scenes, in space and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldplay_env.model.autoencoder import Autoencoder, pixels_to_uint8, uint8_to_pixels
from worldplay_env.model.config import TINY, AutoencoderConfig
from worldplay_env.training.data import SceneClips, held_out_clips, peak_signal_to_noise, training_seeds
from worldplay_env.training.run import Run, RunOptions
from worldplay_env.weights.checkpoint import initialise
from worldplay_env.world import pick_device

CLIP_LATENTS = 5
"""Length of a clip in latent frames: 17 images. One length: cuDNN plans its convolutions anew for every other."""


@dataclass(frozen=True)
class AutoencoderOptions(RunOptions):
    """Train the autoencoder on clips of scenes, rendered as they are needed."""

    folder: Path = Path("runs/autoencoder")
    frames: int = 527
    """Images in a batch, in clips of equal length."""
    scenes: int = 4096
    """Scenes that clips are drawn from."""
    kl: float = 2e-4
    """Weight of the posterior's divergence from a standard normal, a mean over latents."""
    edges: float = 0.5
    """Weight of the error of the pictures' gradients."""
    report_every: float = 1.0
    """Minutes between reconstructions of held-out clips."""

    def run(self) -> None:
        """Train, until the time is up, and measure the latents' statistics."""
        train(self)


def train(options: AutoencoderOptions) -> Run:
    """Train the autoencoder of the tiny world, or go on doing so; the run's checkpoint holds the result."""
    device = pick_device(options.device)
    autoencoder = initialise(Autoencoder(TINY.autoencoder), options.seed, device=device)
    for layer in autoencoder.modules():
        if isinstance(layer, torch.nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)
    run = Run(options, autoencoder)
    fuse = options.compile and device.type == "cuda"
    clips = SceneClips(
        training_seeds(options.scenes, options.seed),
        TINY.image_size,
        device,
        compile=fuse,
        frames_at_once=options.frames,
    )
    held_out = held_out_clips(8, 5, TINY.image_size, device)
    rng = np.random.default_rng((options.seed, run.step))
    run.start_clock()
    next_report = 0.0
    for step in run.steps():
        count = max(1, options.frames // (4 * CLIP_LATENTS - 3))
        path = clips.wander(rng, count, CLIP_LATENTS)
        video = as_video(clips.render(path.which, path.poses))
        generator = torch.Generator(device).manual_seed(step)
        # Convolutions of few shapes, many times: let cuDNN measure which of its kernels is fastest.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            run.update(losses(autoencoder, video, options, generator))
        if run.seconds >= next_report:
            next_report = run.seconds + options.report_every * 60
            report(run, run.averaged, held_out)
    report(run, run.averaged, held_out)
    run.notes |= latent_statistics(run.averaged, clips, max(1, options.frames // 17))
    run.save()
    return run


def as_video(frames: Tensor) -> Tensor:
    """Map uint8 frames [B, F, H, W, 3] to the autoencoder's video [B, 3, F, H, W] in [-1, 1]."""
    return uint8_to_pixels(frames).permute(0, 4, 1, 2, 3)


def losses(
    autoencoder: Autoencoder, video: Tensor, options: AutoencoderOptions, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the reconstruction's losses on clips [B, 3, F, H, W]: absolute error, gradients' error, divergence."""
    with mixed_precision(video.device):
        mean, log_variance = autoencoder.encode(video)
        mean, log_variance = mean.float(), log_variance.float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latents = mean + noise * (0.5 * log_variance).exp()
        rebuilt, _ = autoencoder.decode(autoencoder.normalise(latents), clamp=False)
    rebuilt = rebuilt.float()
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
def reconstruct(autoencoder: Autoencoder, video: Tensor) -> Tensor:
    """Return video [B, 3, F, H, W] through the encoder's mean and the decoder."""
    with mixed_precision(video.device):
        mean, _ = autoencoder.encode(video)
        return autoencoder.decode(autoencoder.normalise(mean))[0].float()


def report(run: Run, autoencoder: Autoencoder, clips: Tensor) -> None:
    """Log the PSNR of held-out clips uint8 [B, F, H, W, 3], and a strip: truth above, reconstruction below."""
    rebuilt = reconstruct(autoencoder, as_video(clips))
    frames = pixels_to_uint8(rebuilt.permute(0, 2, 3, 4, 1))
    decibels = peak_signal_to_noise(frames.flatten(0, 1), clips.flatten(0, 1))
    run.notes["psnr"] = float(decibels.mean())
    run.report({"held-out psnr": float(decibels.mean()), "worst frame": float(decibels.min())})
    rows = [torch.cat(list(row), dim=1) for row in (clips[:6, -1], frames[:6, -1])]
    run.show("reconstruction", torch.cat(rows, dim=0))


@torch.no_grad()
def latent_statistics(
    autoencoder: Autoencoder, clips: SceneClips, count: int, batches: int = 16
) -> dict[str, list[float]]:
    """Return the latents' mean and deviation a channel over batches of `count` clips, as a configuration holds them."""
    rng = np.random.default_rng(1)
    latents = []
    for _ in range(batches):
        path = clips.wander(rng, count, 5)
        with mixed_precision(clips.renderer.device):
            latents.append(autoencoder.encode(as_video(clips.render(path.which, path.poses)))[0].float())
    values = torch.cat(latents).movedim(1, 0).flatten(1)  # [z, all]
    return {"latents_mean": values.mean(1).tolist(), "latents_std": values.std(1).clamp(min=1e-3).tolist()}


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return the context in which networks are trained: bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def measured_config(notes: Mapping[str, object]) -> AutoencoderConfig:
    """Return the tiny autoencoder's configuration with the statistics that a finished run measured.

    Raises:
        ValueError: The run has not measured them: it was killed before its end.
    """
    if "latents_mean" not in notes:
        raise ValueError("this autoencoder run has no latent statistics yet: let it finish (resume it for a minute)")
    return replace(
        TINY.autoencoder, latents_mean=tuple(notes["latents_mean"]), latents_std=tuple(notes["latents_std"])
    )  # type: ignore[arg-type]
