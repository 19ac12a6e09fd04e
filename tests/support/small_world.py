"""A world model of the production architecture with random weights, small enough for tests of behaviour."""

from __future__ import annotations

import numpy as np
import torch

from worldplay_env.control.actions import motion_of
from worldplay_env.control.camera import integrate
from worldplay_env.control.trajectory import trajectory_of_poses
from worldplay_env.models.config import AutoencoderConfig, TextConfig, TransformerConfig, WorldConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.checkpoint import initialise
from worldplay_env.worlds.base import Chunk, Control, Start
from worldplay_env.worlds.diffusion.rollout import DiffusionRollout
from worldplay_env.worlds.diffusion.world import DiffusionWorld

TEXT_TOKENS = 5
CONFIG = WorldConfig(
    name="small",
    image_size=(32, 48),
    transformer=TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=6,
        out_channels=6,
        text_dim=10,
        freq_dim=16,
        ffn_dim=40,
        num_layers=3,
        patch_size=(1, 2, 2),
    ),
    autoencoder=AutoencoderConfig(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=6,
        latents_mean=(0.1, -0.2, 0.3, 0.0, 0.05, -0.4),
        latents_std=(1.1, 0.9, 0.5, 1.3, 0.8, 1.0),
        dim_mult=(1, 2, 2),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        patch_size=2,
    ),
    text=TextConfig(text_len=TEXT_TOKENS, vocab_size=8, d_model=10, d_kv=4, d_ff=8, num_layers=1, num_heads=2),
)


def small_transformer(dtype: torch.dtype = torch.float32) -> Transformer:
    """Return the small transformer with seeded random weights."""
    transformer = Transformer(CONFIG.transformer)
    initialise(transformer, seed=1)
    return transformer.to(dtype)


def small_world(dtype: torch.dtype = torch.float32, device: str = "cpu", **options: object) -> DiffusionWorld:
    """Return a small world without a text encoder."""
    autoencoder = Autoencoder(CONFIG.autoencoder)
    initialise(autoencoder, seed=2)
    return DiffusionWorld(CONFIG, small_transformer(dtype).to(device), autoencoder.to(device, dtype), **options)  # type: ignore[arg-type]


def begin(
    world: DiffusionWorld, seed: int, *, image: bool = True, prompt: int = 0, pose: np.ndarray | None = None
) -> DiffusionRollout:
    """Begin a rollout from a picture of noise (the same for all) or from text alone."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8) if image else None
    embedding = torch.randn(TEXT_TOKENS, CONFIG.transformer.text_dim, generator=torch.Generator().manual_seed(prompt))
    start = Start(picture, f"prompt {prompt}", np.eye(4) if pose is None else pose)
    return world.start(start, seed, prompt_embedding=embedding)


def wander(chunks: int, seed: int, start: np.ndarray | None = None) -> list[Control]:
    """Return the controls of a random path: one random action a latent frame, from the identity or `start`."""
    actions = np.random.default_rng(seed).integers(0, 81, 4 * chunks - 1)
    poses = integrate(np.eye(4) if start is None else start, [motion_of(int(action)) for action in actions])
    labels = trajectory_of_poses(poses).labels
    return [Control(poses[first : first + 4], labels[first : first + 4]) for first in range(0, 4 * chunks, 4)]


PATH = wander(8, seed=5)


def roll(world: DiffusionWorld, rollout: DiffusionRollout, chunks: int, path: list[Control] = PATH) -> list[Chunk]:
    """Make a rollout's next chunks along a path."""
    first = rollout.chunks
    return [world.step([rollout], [control])[0] for control in path[first : first + chunks]]
