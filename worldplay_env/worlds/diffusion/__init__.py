"""The world models: the transformer and the autoencoder as a `World`, and its rollouts.

`describe` and `load` are for `worldplay_env.worlds.registry`; torch comes in when a world is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from worldplay_env.models.config import PRESETS, WorldConfig
from worldplay_env.worlds.base import CHUNK_LATENTS, WorldSpec
from worldplay_env.worlds.device import pick_device

if TYPE_CHECKING:
    import torch

    from worldplay_env.models.wan.transforms import Transform
    from worldplay_env.weights.folder import WeightFiles
    from worldplay_env.worlds.diffusion.world import DreamWorld


def describe(name: str) -> WorldSpec:
    """Return the sizes of a world model, or of a folder of weights, without loading it."""
    config = _config(name)
    shape = (config.autoencoder.z_dim, CHUNK_LATENTS, *config.latent_size)
    return WorldSpec(image_size=config.image_size, latent_shape=shape, fps=config.fps)


def content(name: str, weights: str | None) -> str | None:
    """Return what tells the worlds of a folder before and after it was changed; None for a named world.

    That is the digest of the weights; where they are random, the sizes alone.
    """
    if name in PRESETS:
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
    latents_per_decode: int = CHUNK_LATENTS,
    sample_image: bool = False,
    compile: bool = False,
    quantize: str | None = None,
    attention: str | None = None,
    transforms: Sequence[Transform] = (),
) -> DreamWorld:
    """Make the world model of that name; `world.load` shares it within the process and describes the arguments.

    Raises:
        ValueError: No weights are known under that name, or no revisions of them.
        LicenseError, DownloadError, CheckpointError: The weights cannot be had, or are damaged.
    """
    import torch

    from worldplay_env.models.wan.transforms import transforms_of
    from worldplay_env.weights import checkpoint
    from worldplay_env.weights.content import remembered
    from worldplay_env.weights.files import weight_files
    from worldplay_env.worlds.diffusion.world import DreamWorld

    options = transforms_of(compile=compile, quantize=quantize, attention=attention)
    if revision is not None and (weights == "random" or name == "tiny"):
        raise ValueError(f"{weights or 'embedded'} weights have no revisions, got revision={revision!r}")
    files = None if weights == "random" else _files(name, revision, accept_license)
    config = files.config if files else _config(name)
    random = checkpoint.RandomWeights()
    place = {"device": pick_device(device), "dtype": getattr(torch, dtype)}
    known_as = files.content_hash if files else None  # before the files are read
    with torch.inference_mode(False):  # whatever the caller does: these tensors outlive the call
        world = DreamWorld(
            config,
            checkpoint.load_transformer(files.transformer if files else random, config.transformer, **place),
            checkpoint.load_autoencoder(files.autoencoder if files else random, config.autoencoder, **place),
            checkpoint.load_text_encoder(
                files.text_encoder if files else random,
                files.tokenizer if files else None,
                config.text,
                unchanged=remembered(weight_files(files.text_encoder) if files else []),
                **place,
            ),
            weights=(files.revision or files.content_hash[:12]) if files else "random",
            weights_hash=known_as,
            latents_per_decode=latents_per_decode,
            sample_image=sample_image,
            transforms=[*transforms, *options],
        )
    if files and replace(files).content_hash != known_as:
        raise checkpoint.CheckpointError(f"{name}: its files were changed while they were read; load it again")
    return world


def _config(name: str) -> WorldConfig:
    if name in PRESETS:
        return PRESETS[name]
    from worldplay_env.weights import hub

    return hub.folder_config(name)


def _files(name: str, revision: str | None, accept_license: bool) -> WeightFiles:
    """Return the files of a world's own weights."""
    from worldplay_env.weights import hub

    return hub.bundled() if name == "tiny" else hub.resolve(name, revision, accept_license)
