"""The networks of a world model, from its files or with random parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from worldplay_env.models.codec import Codec
from worldplay_env.models.config import WorldConfig
from worldplay_env.models.wan.autoencoder import RMSNorm
from worldplay_env.models.wan.backbone import Backbone
from worldplay_env.models.wan.small_decoder import SmallDecoderConfig
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.weights import checkpoint
from worldplay_env.weights.content import remembered
from worldplay_env.weights.files import weight_files
from worldplay_env.weights.folder import SMALL_DECODER, WeightFiles

DECODERS = ("full", "small")
"""The decoder of Wan 2.2's autoencoder, and taew2_2."""
Transformer = TypeVar("Transformer", bound=Backbone)


@dataclass(frozen=True)
class Networks(Generic[Transformer]):
    """What a world model is made of.

    Attributes:
        transformer: The velocity field.
        codec: Frames to latents and back.
        text_encoder: Prompts to embeddings.
        weights: Where the parameters came from: a revision, the beginning of the files' digest, or "random".
        weights_hash: The digest of the files; None for random parameters.
    """

    transformer: Transformer
    codec: Codec
    text_encoder: TextEncoder
    weights: str
    weights_hash: str | None


def load_networks(
    name: str,
    config: WorldConfig,
    files: WeightFiles | None,
    load_transformer: Callable[..., Transformer],
    *,
    device: torch.device,
    dtype: torch.dtype,
    norm_eps: float = RMSNorm.EPS,
    decoder: str = "full",
    small: SmallDecoderConfig | None = None,
) -> Networks[Transformer]:
    """Load the networks of a world.

    Args:
        name: Of the world, for errors.
        config: Its sizes.
        files: Its weights; None for random ones.
        load_transformer: A function of `weights.checkpoint`.
        device: Where the networks go.
        dtype: Of their parameters.
        norm_eps: As in `load_autoencoder`.
        decoder: One of `DECODERS`: the autoencoder's own, or the small one.
        small: Sizes of the small decoder; by default those of the published one.

    Raises:
        ValueError: An unknown decoder, or one that does not fit the world's latents.
        CheckpointError: A file is damaged, does not fit the sizes, or was changed while it was read.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}: known are {', '.join(DECODERS)}")
    if files and decoder == "full":
        files = replace(files, small_decoder=None)  # not read, so no part of the world's digest
    random = checkpoint.RandomWeights()
    place: dict[str, Any] = {"device": device, "dtype": dtype, "norm_eps": norm_eps}
    autoencoder = files.autoencoder if files else random
    known_as = files.content_hash if files else None  # before the files are read
    with torch.inference_mode(False):  # whatever the caller does: these tensors outlive the call
        networks = Networks(
            load_transformer(files.transformer if files else random, config.transformer, device=device, dtype=dtype),
            checkpoint.load_autoencoder(autoencoder, config.autoencoder, **place)
            if decoder == "full"
            else checkpoint.load_small_codec(
                autoencoder,
                _small_decoder(name, files) if files else random,
                config.autoencoder,
                small or SmallDecoderConfig(),
                **place,
            ),
            checkpoint.load_text_encoder(
                files.text_encoder if files else random,
                files.tokenizer if files else None,
                config.text,
                unchanged=remembered(weight_files(files.text_encoder) if files else []),
                device=device,
                dtype=dtype,
            ),
            weights=(files.revision or files.content_hash[:12]) if files else "random",
            weights_hash=known_as,
        )
    if files and replace(files).content_hash != known_as:
        raise checkpoint.CheckpointError(f"{name}: its files were changed while they were read; load it again")
    return networks


def _small_decoder(name: str, files: WeightFiles) -> Path:
    if files.small_decoder is None:
        raise checkpoint.CheckpointError(f'{name}: decoder="small" needs the file {SMALL_DECODER} among its weights')
    return files.small_decoder
