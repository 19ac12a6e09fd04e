"""The world models: the transformer and the autoencoder as a `World`, and its rollouts.

`describe` and `load` are for `worldplay_env.worlds.registry`; torch comes in when a world is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldplay_env.models.config import PRESETS, WorldConfig
from worldplay_env.worlds.base import WorldSpec
from worldplay_env.worlds.device import pick_device

if TYPE_CHECKING:
    import torch

    from worldplay_env.models.wan.transforms import Transform
    from worldplay_env.weights.folder import WeightFiles
    from worldplay_env.worlds.diffusion.world import DiffusionWorld


def describe(name: str) -> WorldSpec:
    """Return the sizes of a world model, or of a folder of weights, without loading it."""
    config = _config(name)
    shape = (config.autoencoder.z_dim, config.layout.latents, *config.latent_size)
    return WorldSpec(config.image_size, shape, config.fps, layout=config.layout, name=config.name)


def content(name: str, weights: str | None) -> str | None:
    """Return what tells the worlds of a folder before and after it was changed; None for a named world.

    That is the digest of the weights; where they are random, the sizes alone.
    """
    if not Path(name).is_dir():
        return None
    from worldplay_env.weights import hub

    files = hub.resolve(name)
    return str(files.config) if weights == "random" else files.content_hash


def load(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    weights: str | None = None,
    revision: str | None = None,
    accept_license: bool = False,
    latents_per_decode: int | None = None,
    sample_image: bool = False,
    decoder: str = "full",
    compile: bool = False,
    quantize: str | None = None,
    attention: str | None = None,
    transforms: Sequence[Transform] = (),
) -> DiffusionWorld:
    """Make the world model of that name; `world.load` shares it within the process and describes the arguments.

    Raises:
        ValueError: No weights are known under that name, or no revisions of them.
        LicenseError, DownloadError, CheckpointError: The weights cannot be had, or are damaged.
    """
    import torch

    from worldplay_env.models.wan.transforms import transforms_of
    from worldplay_env.weights.checkpoint import load_transformer
    from worldplay_env.worlds.diffusion.networks import load_networks
    from worldplay_env.worlds.diffusion.world import DiffusionWorld

    options = transforms_of(compile=compile, quantize=quantize, attention=attention)
    if revision is not None and (weights == "random" or name == "tiny"):
        raise ValueError(f"{weights or 'embedded'} weights have no revisions, got revision={revision!r}")
    files = None if weights == "random" else _files(name, revision, accept_license, small_decoder=decoder == "small")
    config = files.config if files else _config(name)
    place, numbers = pick_device(device), getattr(torch, dtype)
    networks = load_networks(name, config, files, load_transformer, device=place, dtype=numbers, decoder=decoder)
    with torch.inference_mode(False):
        return DiffusionWorld(
            config,
            networks.transformer,
            networks.codec,
            networks.text_encoder,
            weights=networks.weights,
            weights_hash=networks.weights_hash,
            latents_per_decode=latents_per_decode,
            sample_image=sample_image,
            transforms=[*transforms, *options],
        )


def _config(name: str) -> WorldConfig:
    if name in PRESETS:
        return PRESETS[name]
    from worldplay_env.weights import hub

    return hub.folder_config(name)


def _files(name: str, revision: str | None, accept_license: bool, *, small_decoder: bool) -> WeightFiles:
    """Return the files of a world's own weights."""
    from worldplay_env.weights import hub

    return (
        hub.bundled() if name == "tiny" else hub.resolve(name, revision, accept_license, small_decoder=small_decoder)
    )
