"""ABot-World: held keys to video, with a rolling window of what was shown.

`describe` and `load` are for `worldplay_env.worlds.registry`; torch comes in when a world is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from worldplay_env.worlds.base import WorldSpec
from worldplay_env.worlds.device import pick_device

if TYPE_CHECKING:
    import torch

    from worldplay_env.models.abot.config import AbotWorldConfig
    from worldplay_env.models.wan.transforms import Transform
    from worldplay_env.worlds.abot.world import AbotWorld


def describe(name: str) -> WorldSpec:
    """Return the sizes of an ABot-World, or of a folder of its weights, without loading it."""
    from worldplay_env.models.abot.config import REFERENCES

    config = _config(name)
    return WorldSpec(
        name=config.name,
        image_size=config.image_size,
        latent_shape=(config.autoencoder.z_dim, config.layout.latents, *config.latent_size),
        fps=config.fps,
        layout=config.layout,
        references=REFERENCES[: config.window.reference_slots],
    )


def load(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    weights: str | None = None,
    revision: str | None = None,
    image_size: tuple[int, int] | None = None,
    latents_per_decode: int | None = None,
    decoder: str = "small",
    compile: bool = False,
    quantize: str | None = None,
    attention: str | None = None,
    transforms: Sequence[Transform] = (),
) -> AbotWorld:
    """Make the ABot-World of that name; `world.load` shares it within the process and describes the arguments.

    `image_size` is the height and width of a frame, by default those of the preset: 704x1280, and 480x832 is what the
    model knows as well.

    Raises:
        ValueError: No weights are known under that name, or no revisions of them.
        DownloadError, CheckpointError: The weights cannot be had, or are damaged.
    """
    import torch

    from worldplay_env.models.abot.config import AUTOENCODER_NORM_EPS
    from worldplay_env.models.wan.transforms import transforms_of
    from worldplay_env.weights import hub
    from worldplay_env.weights.checkpoint import load_abot_transformer
    from worldplay_env.worlds.abot.world import AbotWorld
    from worldplay_env.worlds.diffusion.networks import load_networks

    options = transforms_of(compile=compile, quantize=quantize, attention=attention)
    if weights == "random" and revision is not None:
        raise ValueError(f"random weights have no revisions, got revision={revision!r}")
    if weights != "random" and name == "abot-small":
        raise ValueError('no weights of "abot-small" were ever trained: ask for weights="random"')
    files = None if weights == "random" else hub.resolve(name, revision)
    config = _config(name)
    if image_size is not None:
        config = replace(config, image_size=image_size)
    place, numbers = pick_device(device), getattr(torch, dtype)
    networks = load_networks(
        name,
        config,
        files,
        load_abot_transformer,
        device=place,
        dtype=numbers,
        norm_eps=AUTOENCODER_NORM_EPS,
        decoder=decoder,
        small=config.small_decoder,
    )
    with torch.inference_mode(False):
        return AbotWorld(
            config,
            networks.transformer,
            networks.codec,
            networks.text_encoder,
            weights=networks.weights,
            weights_hash=networks.weights_hash,
            latents_per_decode=latents_per_decode,
            transforms=[*transforms, *options],
        )


def _config(name: str) -> AbotWorldConfig:
    from worldplay_env.models.abot.config import ABOT_PRESETS, AbotWorldConfig

    if name in ABOT_PRESETS:
        return ABOT_PRESETS[name]
    from worldplay_env.weights import hub

    config = hub.folder_config(name)
    assert isinstance(config, AbotWorldConfig)
    return config
