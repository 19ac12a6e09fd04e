"""Planned paths with latents of noise, in the sizes of the small world: what the transformer's stages train on."""

from __future__ import annotations

import torch
from small_world import CONFIG

from worldplay_env.control.camera import view_matrices
from worldplay_env.training.latent_dataset import LatentPaths
from worldplay_env.training.trajectories import plan

SIZE = (32, 48)


def small_paths(count: int = 2, chunks: int = 5) -> LatentPaths:
    """Return paths through as many scenes; their prompts have one token less than there is room for."""
    planned = plan(range(count), chunks, SIZE)
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(count, CONFIG.text.text_len, dtype=torch.int64)
    mask[:, -1] = 0
    shape = (count, 4 * chunks, CONFIG.transformer.in_channels, 4, 6)
    return LatentPaths(
        latents=torch.randn(shape, generator=generator).half(),
        c2w=torch.from_numpy(planned.poses),
        w2c=torch.from_numpy(view_matrices(planned.poses)),
        labels=torch.from_numpy(planned.labels),
        memory=torch.from_numpy(planned.memory),
        tokens=mask.clone(),
        mask=mask,
        depth=(1 + 9 * torch.rand(count, 4 * chunks, 8, 12, generator=generator)).half(),
    )
